//! Which signatures and keys count: the strict rules, by the cases of "Taming the many EdDSAs" (Chalkias, Garillot,
//! Nikolaenko, 2020, section 5): small-order keys, small-order and non-canonical R, non-canonical S and A.

use curve25519_dalek::{constants::EIGHT_TORSION, edwards::EdwardsPoint, scalar::Scalar};
use ed25519_dalek::{Signature, Verifier, VerifyingKey, hazmat::ExpandedSecretKey};
use p2p_wire::{BadSignature, NodeId, SealError, SecretKey, seal};
use sha2::{Digest, Sha512};

const DOMAIN: &[u8] = b"test/1";
const IDENTITY: [u8; 32] = {
    let mut bytes = [0; 32];
    bytes[0] = 1;
    bytes
};

fn join(r: [u8; 32], s: [u8; 32]) -> [u8; 64] {
    let mut signature = [0; 64];
    signature[..32].copy_from_slice(&r);
    signature[32..].copy_from_slice(&s);
    signature
}

/// What a check by RFC 8032's letter, without the strict rules, says.
fn lax(id: &NodeId, message: &[u8], signature: &[u8; 64]) -> bool {
    let signed = [DOMAIN, message].concat();
    VerifyingKey::from_bytes(id.as_bytes())
        .is_ok_and(|key| key.verify(&signed, &Signature::from_bytes(signature)).is_ok())
}

/// k of RFC 8032 section 5.1.7.
fn challenge(r: &[u8; 32], a: &[u8; 32], message: &[u8]) -> Scalar {
    let hash = Sha512::new().chain_update(r).chain_update(a).chain_update(DOMAIN).chain_update(message);
    Scalar::from_bytes_mod_order_wide(&hash.finalize().into())
}

#[test]
fn the_parts_of_a_message_are_joined() {
    let key = SecretKey::from_bytes(&[1; 32]);
    let signature = key.sign(DOMAIN, &[b"ab", b"", b"c"]);
    assert_eq!(key.id().verify(DOMAIN, &[b"a", b"bc"], &signature), Ok(()));
    assert_eq!(key.id().verify(DOMAIN, &[b"ab"], &signature), Err(BadSignature));
    assert_eq!(key.id().verify(b"other/1", &[b"abc"], &signature), Err(BadSignature));
    assert_eq!(SecretKey::from_bytes(&[2; 32]).id().verify(DOMAIN, &[b"abc"], &signature), Err(BadSignature));
}

#[test]
fn keys_of_small_order_sign_nothing() {
    for point in EIGHT_TORSION {
        let id = NodeId::from_bytes(point.compress().to_bytes());
        assert!(!id.is_valid(), "{id}");
        // R = identity, S = 0 satisfies the equation for every message that hashes to a multiple of the order.
        let signature = join(IDENTITY, [0; 32]);
        let forged = (0_u8..64).find(|n| lax(&id, &[*n], &signature)).expect("one in eight at worst");
        assert_eq!(id.verify(DOMAIN, &[&[forged]], &signature), Err(BadSignature), "{id}");
        assert_eq!(seal(&mut rand::rng(), &id, 1, &id, b"x"), Err(SealError::Recipient), "{id}");
    }
}

#[test]
fn an_r_of_small_order_is_refused() {
    let seed = [1; 32];
    let (key, secret) = (SecretKey::from_bytes(&seed), ExpandedSecretKey::from(&seed));
    let id = key.id();
    // A signature with nonce 0: made with the secret key, so only strictness refuses it.
    let s = challenge(&IDENTITY, id.as_bytes(), b"m") * secret.scalar;
    let signature = join(IDENTITY, s.to_bytes());
    assert!(lax(&id, b"m", &signature));
    assert_eq!(id.verify(DOMAIN, &[b"m"], &signature), Err(BadSignature));
}

#[test]
fn no_r_of_small_order_passes_for_any_key() {
    // With the secret of a key that has a torsion part, each point of small order can be made to satisfy the equation.
    let secret = ExpandedSecretKey::from(&[1; 32]);
    let id =
        NodeId::from_bytes((EdwardsPoint::mul_base(&secret.scalar) + EIGHT_TORSION[1]).compress().to_bytes());
    let key = id.public_key().expect("a mixed key is not of small order");
    assert_eq!(key.id(), id);
    for point in EIGHT_TORSION {
        let r = point.compress().to_bytes();
        let signed = (0..=u8::MAX).map(|n| {
            let s = challenge(&r, id.as_bytes(), &[n]) * secret.scalar;
            (n, join(r, s.to_bytes()))
        });
        let valid: Vec<_> = signed.filter(|(n, signature)| lax(&id, &[*n], signature)).collect();
        assert!(!valid.is_empty(), "one message in eight has such a signature");
        for (n, signature) in valid {
            assert_eq!(key.verify(DOMAIN, &[&[n]], &signature), Err(BadSignature), "{point:?}");
            let strict = VerifyingKey::from_bytes(id.as_bytes()).unwrap();
            let signed = [DOMAIN, &[n]].concat();
            assert!(strict.verify_strict(&signed, &Signature::from_bytes(&signature)).is_err());
        }
    }
}

#[test]
fn an_s_above_the_group_order_is_refused() {
    let key = SecretKey::from_bytes(&[1; 32]);
    let mut signature = key.sign(DOMAIN, &[b"m"]);
    let order = order_of_the_group();
    let mut carry = 0;
    for (byte, add) in signature[32..].iter_mut().zip(order) {
        let sum = u16::from(*byte) + u16::from(add) + carry;
        *byte = u8::try_from(sum & 0xff).unwrap();
        carry = sum >> 8;
    }
    assert_eq!(key.id().verify(DOMAIN, &[b"m"], &signature), Err(BadSignature));
}

/// l = 2^252 + 27742317777372353535851937790883648493, little-endian: (l - 1) + 1.
fn order_of_the_group() -> [u8; 32] {
    let mut order = (-Scalar::ONE).to_bytes();
    order[0] += 1;
    order
}

#[test]
fn keys_in_a_second_encoding_are_refused() {
    let mut decodable = 0;
    for low in 0xed..=0xff_u8 {
        for high in [0x7f, 0xff] {
            let mut bytes = [0xff; 32];
            (bytes[0], bytes[31]) = (low, high);
            decodable += usize::from(VerifyingKey::from_bytes(&bytes).is_ok());
            assert!(!NodeId::from_bytes(bytes).is_valid(), "{low:#x} {high:#x}");
        }
    }
    assert!(decodable > 4, "the curve library takes some of them: {decodable}");
    // p - 1 is the largest canonical y; it is refused for its order, p - 2 is no point, others below are fine.
    assert!((0..=0xec).any(|low| {
        let mut bytes = [0xff; 32];
        (bytes[0], bytes[31]) = (low, 0x7f);
        NodeId::from_bytes(bytes).is_valid()
    }));
}

#[test]
fn an_r_in_a_second_encoding_is_refused() {
    let seed = [1; 32];
    let (key, secret) = (SecretKey::from_bytes(&seed), ExpandedSecretKey::from(&seed));
    let mut r = [0xff; 32];
    (r[0], r[31]) = (0xee, 0x7f); // p + 1: the identity again
    let s = challenge(&r, key.id().as_bytes(), b"m") * secret.scalar;
    assert_eq!(key.id().verify(DOMAIN, &[b"m"], &join(r, s.to_bytes())), Err(BadSignature));
}

#[test]
fn a_key_with_a_torsion_part_is_judged_without_the_cofactor() {
    // Whoever knows the secret can use A + T. A check with the cofactor takes all its signatures, one without takes
    // those whose challenge is a multiple of 8; all nodes must agree, and ours is the one without.
    let secret = ExpandedSecretKey::from(&[1; 32]);
    let mixed = EdwardsPoint::mul_base(&secret.scalar) + EIGHT_TORSION[1];
    let id = NodeId::from_bytes(mixed.compress().to_bytes());
    let nonce = Scalar::from(1_234_567_u64);
    let r = EdwardsPoint::mul_base(&nonce).compress().to_bytes();
    let mut accepted = 0;
    for n in 0..64_u8 {
        let k = challenge(&r, id.as_bytes(), &[n]);
        let signature = join(r, (nonce + k * secret.scalar).to_bytes());
        let valid = id.verify(DOMAIN, &[&[n]], &signature).is_ok();
        assert_eq!(valid, k.to_bytes()[0].is_multiple_of(8), "message {n}");
        accepted += usize::from(valid);
    }
    assert!((1..32).contains(&accepted));
}

#[test]
fn bytes_that_are_no_point_are_refused() {
    let mut bytes = [0; 32];
    bytes[0] = 2;
    let id = NodeId::from_bytes(bytes);
    assert!(!id.is_valid());
    assert_eq!(id.verify(DOMAIN, &[], &[0; 64]), Err(BadSignature));
    assert_eq!(seal(&mut rand::rng(), &id, 1, &id, b"x"), Err(SealError::Recipient));
}

#[test]
fn debug_shows_nothing_secret() {
    let key = SecretKey::from_bytes(&[1; 32]);
    assert_eq!(format!("{key:?}"), format!("SecretKey(of {})", key.id().short()));
    assert_eq!(format!("{:?}", key.id()), "NodeId(8a88e3dd74)");
}
