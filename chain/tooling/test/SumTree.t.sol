// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {Leaves} from "contracts/libraries/Leaves.sol";
import {ISettlementTypes} from "contracts/interfaces/ISettlement.sol";
import {Deployment} from "./Deployment.sol";
import {Tree} from "./Tree.sol";

/// @dev The library takes calldata.
contract Verifier {
    function verify(ISettlementTypes.Sibling[] calldata proof, bytes32 root, uint256 total, bytes32 leaf, uint256 units)
        external
        pure
        returns (bool)
    {
        return Leaves.verify(proof, root, total, leaf, units);
    }
}

/// @title No tree, however made, proves more units than its total says.
contract SumTreeTest is Deployment {
    uint256 internal constant MAX = type(uint96).max;
    Verifier internal verifier;

    function setUp() public {
        verifier = new Verifier();
    }

    function leafOf(uint256 i, uint256 units) internal pure returns (Sibling memory) {
        return Sibling(Leaves.hash("gate", bytes32(i), 1, 2, units), units);
    }

    function proves(Sibling[] memory leaves, bytes32 root, uint256 total, uint256 i) internal view returns (bool) {
        return verifier.verify(Tree.proof(leaves, leaves[i]), root, total, leaves[i].hash, leaves[i].units);
    }

    function make(uint96[] memory units, uint256 size) internal pure returns (Sibling[] memory leaves, uint256 sum) {
        leaves = new Sibling[](size);
        for (uint256 i = 0; i < size; ++i) {
            leaves[i] = leafOf(i, bound(units[i % units.length], 1, MAX / 64));
            sum += leaves[i].units;
        }
    }

    function testFuzz_every_leaf_of_an_honest_tree_is_proved(uint96[] memory units, uint8 size) public view {
        vm.assume(units.length > 0);
        (Sibling[] memory leaves, uint256 sum) = make(units, 1 + size % 33);
        bytes32 root = Tree.root(leaves);
        for (uint256 i = 0; i < leaves.length; ++i) {
            yes(proves(leaves, root, sum, i), "a leaf of the tree");
        }
    }

    /// @dev With any other total nothing can be proved at all, so a gateway that misstates it only owes for every voucher.
    function testFuzz_a_wrong_sum_proves_nothing(uint96[] memory units, uint8 size, uint96 total) public view {
        vm.assume(units.length > 0);
        (Sibling[] memory leaves, uint256 sum) = make(units, 1 + size % 33);
        vm.assume(total != sum);
        bytes32 root = Tree.root(leaves);
        for (uint256 i = 0; i < leaves.length; ++i) {
            yes(!proves(leaves, root, total, i), "nothing with another total");
        }
    }

    /// @dev A gateway may hash any units into any node. What can be proved of such a tree still adds up to at most its total.
    function testFuzz_a_tree_with_forged_sums_never_proves_more_than_its_total(
        uint96[8] memory units,
        uint256[7] memory forged,
        uint8 which
    ) public view {
        Sibling[] memory tree = new Sibling[](15);
        for (uint256 i = 0; i < 8; ++i) {
            tree[7 + i] = leafOf(i, bound(units[i], 1, MAX));
        }
        for (uint256 i = 7; i > 0; --i) {
            tree[i - 1] = Tree.parent(tree[2 * i - 1], tree[2 * i]);
            // Some nodes claim other units than their children have.
            if ((which >> (i - 1)) & 1 == 1) tree[i - 1].units = forged[i - 1];
        }
        uint256 total = tree[0].units;
        uint256 proved;
        for (uint256 i = 7; i < 15; ++i) {
            Sibling[] memory path = new Sibling[](3);
            uint256 place = i;
            for (uint256 k = 0; k < 3; ++k) {
                path[k] = tree[place % 2 == 1 ? place + 1 : place - 1];
                place = (place - 1) / 2;
            }
            if (verifier.verify(path, tree[0].hash, total, tree[i].hash, tree[i].units)) proved += tree[i].units;
        }
        yes(proved <= total && proved <= MAX, "more than the total");
    }

    function testFuzz_a_changed_sibling_is_refused(uint96[] memory units, uint8 size, uint256 seed, bool byHash)
        public
        view
    {
        vm.assume(units.length > 0);
        (Sibling[] memory leaves, uint256 sum) = make(units, 2 + size % 32);
        uint256 i = seed % leaves.length;
        bytes32 root = Tree.root(leaves);
        Sibling[] memory path = Tree.proof(leaves, leaves[i]);
        Sibling memory changed = path[(seed >> 16) % path.length];
        if (byHash) changed.hash ^= bytes32(1 << ((seed >> 32) % 256));
        else changed.units ^= 1 << ((seed >> 32) % 256);
        yes(!verifier.verify(path, root, sum, leaves[i].hash, leaves[i].units), "refused");
    }

    function test_units_that_overflow_are_refused_on_the_way() public view {
        Sibling[] memory leaves = new Sibling[](2);
        (leaves[0], leaves[1]) = (leafOf(0, 5), leafOf(1, MAX - 4));
        yes(!proves(leaves, Tree.root(leaves), MAX + 1, 0), "above the maximum");
        leaves[1] = leafOf(1, MAX - 5);
        yes(proves(leaves, Tree.root(leaves), MAX, 0), "the maximum itself");
        leaves[1] = leafOf(1, type(uint256).max - 3);
        yes(!proves(leaves, Tree.root(leaves), 1, 0), "wrapped around");
        leaves[0] = leafOf(0, MAX + 1);
        Sibling[] memory one = new Sibling[](1);
        one[0] = leaves[0];
        yes(!proves(one, one[0].hash, MAX + 1, 0), "a single leaf above it");
    }

    function test_a_proof_has_at_most_64_steps() public view {
        Sibling memory node = leafOf(0, 1);
        Sibling[] memory path = new Sibling[](64);
        for (uint256 i = 0; i < 64; ++i) {
            path[i] = Sibling(bytes32(i + 1), 0);
            node = Tree.parent(node, path[i]);
        }
        yes(verifier.verify(path, node.hash, 1, leafOf(0, 1).hash, 1), "64");
        Sibling[] memory longer = new Sibling[](65);
        for (uint256 i = 0; i < 64; ++i) {
            longer[i] = path[i];
        }
        longer[64] = Sibling(bytes32(uint256(65)), 0);
        node = Tree.parent(node, longer[64]);
        yes(!verifier.verify(longer, node.hash, 1, leafOf(0, 1).hash, 1), "65");
    }

    function test_siblings_with_the_same_hash_are_ordered_by_units() public view {
        Sibling memory leaf_ = leafOf(0, 7);
        Sibling[] memory path = new Sibling[](1);
        path[0] = Sibling(leaf_.hash, 3);
        Sibling memory above = Tree.parent(leaf_, path[0]);
        yes(above.hash == keccak256(abi.encode(leaf_.hash, 3, leaf_.hash, 7)), "the smaller one first");
        yes(verifier.verify(path, above.hash, 10, leaf_.hash, 7), "verified so");
    }
}
