// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {Directory} from "contracts/Directory.sol";
import {Disputes} from "contracts/Disputes.sol";
import {EpochController} from "contracts/EpochController.sol";
import {Escrow} from "contracts/Escrow.sol";
import {FuncToken} from "contracts/FuncToken.sol";
import {GatewayRegistry} from "contracts/GatewayRegistry.sol";
import {GatewayStaking} from "contracts/GatewayStaking.sol";
import {ModelRegistry} from "contracts/ModelRegistry.sol";
import {ProviderRegistry} from "contracts/ProviderRegistry.sol";
import {ProviderStaking} from "contracts/ProviderStaking.sol";
import {RewardPool} from "contracts/RewardPool.sol";
import {Router} from "contracts/Router.sol";
import {Settlement} from "contracts/Settlement.sol";
import {Slashing} from "contracts/Slashing.sol";
import {IDirectory} from "contracts/interfaces/IDirectory.sol";
import {ISettlement, ISettlementTypes} from "contracts/interfaces/ISettlement.sol";
import {Tree} from "./Tree.sol";
import {Vm} from "./Vm.sol";

/// @title All contracts, some actors, and the steps that most tests share.
abstract contract Deployment is ISettlementTypes {
    Vm internal constant vm = Vm(address(uint160(uint256(keccak256("hevm cheat code")))));

    uint64 internal constant EPOCH = 10;
    uint64 internal constant DELAY = 4;
    uint128 internal constant STAKE = 100 ether;
    uint128 internal constant PRICE = 1 gwei;
    uint32 internal constant BLOCKS = 12;
    uint256 internal constant MIN_GATEWAY_STAKE = 10 ether;
    uint256 internal constant BUDGET = 1000 ether;

    uint256 internal constant GATEWAY_KEY = 0xA11CE;
    uint256 internal constant PAYER_KEY = 0xB0B;
    address internal gatewayOwner = vm.addr(GATEWAY_KEY);
    address internal payer = vm.addr(PAYER_KEY);
    address internal creator = address(0xC0FFEE);

    Directory internal directory;
    FuncToken internal token;
    EpochController internal epochs;
    ModelRegistry internal models;
    ProviderRegistry internal providers;
    Router internal router;
    GatewayRegistry internal gateways;
    GatewayStaking internal gatewayStaking;
    Escrow internal escrow;
    ISettlement internal settlement;
    Slashing internal slashing;
    Disputes internal disputes;
    RewardPool internal rewards;

    function deploy() internal {
        deployAll(address(0), address(this));
    }

    /// @dev By name, not by `new`, so that no test carries the code of all contracts.
    /// @param token_ instead of FUNC, if not zero.
    function deployAll(address token_, address owner) internal {
        directory = Directory(vm.deployCode("Directory.sol:Directory", abi.encode(address(this))));
        epochs = EpochController(
            vm.deployCode("EpochController.sol:EpochController", abi.encode(owner, EPOCH, uint64(3), DELAY, DELAY))
        );
        bytes memory common = abi.encode(directory, owner);
        models = ModelRegistry(vm.deployCode("ModelRegistry.sol:ModelRegistry", common));
        providers = ProviderRegistry(vm.deployCode("ProviderRegistry.sol:ProviderRegistry", common));
        router = Router(vm.deployCode("Router.sol:Router", common));
        gateways = GatewayRegistry(vm.deployCode("GatewayRegistry.sol:GatewayRegistry", common));
        gatewayStaking = GatewayStaking(
            vm.deployCode("GatewayStaking.sol:GatewayStaking", abi.encode(directory, owner, MIN_GATEWAY_STAKE))
        );
        escrow = Escrow(vm.deployCode("Escrow.sol:Escrow", common));
        address challenges = vm.deployCode("SettlementChallenges.sol:SettlementChallenges", common);
        settlement = ISettlement(vm.deployCode("Settlement.sol:Settlement", abi.encode(directory, owner, challenges)));
        slashing = Slashing(vm.deployCode("Slashing.sol:Slashing", common));
        disputes = Disputes(vm.deployCode("Disputes.sol:Disputes", common));
        address schedule = vm.deployCode("HalvingSchedule.sol:HalvingSchedule", abi.encode(BUDGET, uint64(1000)));
        rewards = RewardPool(
            vm.deployCode("RewardPool.sol:RewardPool", abi.encode(directory, owner, uint256(1e27), schedule))
        );
        token = FuncToken(token_);
        if (token_ == address(0)) {
            bytes memory arguments = abi.encode(address(this), 1e27, rewards, gateways);
            token = FuncToken(vm.deployCode("FuncToken.sol:FuncToken", arguments));
        }
        directory.seal(
            IDirectory.Entries({
                token: address(token),
                epochs: address(epochs),
                models: address(models),
                providers: address(providers),
                router: address(router),
                gateways: address(gateways),
                gatewayStaking: address(gatewayStaking),
                escrow: address(escrow),
                settlement: address(settlement),
                slashing: address(slashing),
                disputes: address(disputes),
                rewardPool: address(rewards)
            })
        );
        models.wire();
        providers.wire();
        router.wire();
        gateways.wire();
        gatewayStaking.wire();
        escrow.wire();
        Settlement(payable(address(settlement))).wire();
        slashing.wire();
        disputes.wire();
        rewards.wire();
    }

    // --- steps ---

    function nextEpoch(uint64 n) internal {
        vm.roll(epochs.epochStartBlock(epochs.currentEpoch() + n));
    }

    function give(address to, uint256 amount) internal {
        token.transfer(to, amount);
    }

    function newModel(string memory name) internal returns (uint256 modelId) {
        vm.prank(creator);
        modelId = models.createModel(name, bytes32(uint256(1)), "ipfs://m", BLOCKS, PRICE, 1000, STAKE);
    }

    function pool(uint256 modelId) internal view returns (ProviderStaking) {
        return ProviderStaking(router.stakingPool(modelId));
    }

    function newProvider(address owner, string memory id, uint256 modelId) internal {
        give(owner, STAKE);
        vm.startPrank(owner);
        token.approve(address(providers), STAKE);
        providers.registerAndStake(id, modelId, '{"url":"https://p"}');
        vm.stopPrank();
    }

    function newGateway(address owner, string memory id, uint256 amount) internal {
        give(owner, amount);
        vm.startPrank(owner);
        token.approve(address(gateways), amount);
        gateways.registerAndStake(id, "", amount);
        vm.stopPrank();
    }

    function topUp(string memory gatewayId, uint256 amount) internal {
        token.approve(address(escrow), amount);
        escrow.topUpCredit(gatewayId, amount);
    }

    function key(string memory id) internal pure returns (bytes32) {
        return keccak256(bytes(id));
    }

    /// @dev New tokens, reserved by `payer` at a gateway.
    function fund(string memory gatewayId, uint256 amount) internal {
        give(payer, amount);
        vm.startPrank(payer);
        token.approve(address(escrow), amount);
        escrow.depositAndReserve(gatewayId, amount);
        vm.stopPrank();
    }

    /// @dev As `gatewayOwner`.
    function line(string memory gatewayId, string memory id, uint256 amount) internal {
        vm.prank(gatewayOwner);
        gatewayStaking.fundLines(gatewayId, list(id), nums(amount));
    }

    function owe(string memory gatewayId, string memory id, uint256 modelId, uint64 epoch, uint256 units)
        internal
        pure
        returns (ContributionVoucher memory)
    {
        return ContributionVoucher(key(gatewayId), key(id), modelId, epoch, units);
    }

    function signed(uint256 privateKey, bytes32 digest) internal pure returns (bytes memory) {
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(privateKey, digest);
        return abi.encodePacked(r, s, v);
    }

    function leaf(string memory gatewayId, string memory id, uint256 modelId, uint64 epoch, uint256 units)
        internal
        pure
        returns (Sibling memory)
    {
        bytes memory fields = abi.encode(key(gatewayId), key(id), modelId, epoch, units);
        return Sibling(keccak256(bytes.concat(keccak256(fields))), units);
    }

    /// @dev Posts, as `gatewayOwner`, one leaf an id for the epoch before this one, and returns the leaves.
    function post(string memory gatewayId, uint256 modelId, string[] memory ids, uint256[] memory units)
        internal
        returns (Sibling[] memory leaves)
    {
        uint64 epoch = epochs.currentEpoch() - 1;
        leaves = new Sibling[](ids.length);
        uint256 sum;
        for (uint256 i = 0; i < ids.length; ++i) {
            leaves[i] = leaf(gatewayId, ids[i], modelId, epoch, units[i]);
            sum += units[i];
        }
        uint256 fees = models.feeFor(modelId, epoch, sum);
        vm.prank(gatewayOwner);
        settlement.postCheckpoint(modelId, epoch, Tree.root(leaves), sum, fees, bytes32(0));
    }

    function none() internal pure returns (Sibling[] memory) {
        return new Sibling[](0);
    }

    function list(string memory a) internal pure returns (string[] memory l) {
        l = new string[](1);
        l[0] = a;
    }

    function list(string memory a, string memory b) internal pure returns (string[] memory l) {
        l = new string[](2);
        (l[0], l[1]) = (a, b);
    }

    function nums(uint256 a) internal pure returns (uint256[] memory l) {
        l = new uint256[](1);
        l[0] = a;
    }

    function nums(uint256 a, uint256 b) internal pure returns (uint256[] memory l) {
        l = new uint256[](2);
        (l[0], l[1]) = (a, b);
    }

    function bound(uint256 x, uint256 min, uint256 max) internal pure returns (uint256) {
        return min + x % (max - min + 1);
    }

    // --- assertions ---

    function eq(uint256 a, uint256 b, string memory what) internal pure {
        require(a == b, string.concat(what, ": ", vm.toString(a), " is not ", vm.toString(b)));
    }

    function yes(bool condition, string memory what) internal pure {
        require(condition, what);
    }
}
