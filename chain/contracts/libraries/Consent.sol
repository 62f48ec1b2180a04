// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {ICommon} from "../interfaces/ICommon.sol";

/// @title A signer's consent to sign for a gateway or provider: without it, any address could be claimed.
library Consent {
    bytes32 private constant TYPEHASH = keccak256("SignerConsent(bytes32 key,address owner,address signer)");

    function structHash(bytes32 key, address owner, address signer) internal pure returns (bytes32) {
        return keccak256(abi.encode(TYPEHASH, key, owner, signer));
    }

    /// @dev Plain ECDSA, because vouchers and receipts are signed so.
    function check(bytes32 digest, bytes calldata signature, address signer) internal pure {
        (address found, ECDSA.RecoverError failure,) = ECDSA.tryRecoverCalldata(digest, signature);
        if (failure != ECDSA.RecoverError.NoError || found != signer) revert ICommon.InvalidSignature();
    }
}
