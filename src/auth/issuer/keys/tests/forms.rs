//! Signatures that lenient verifiers take: of zeros, of other lengths, in another encoding, and a
//! second spelling of the same number.

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;

use super::*;

/// The order of Ed25519's group, least byte first: what may be added to half of a signature
/// without changing what it means (RFC 8032, 5.1.7 forbids it).
const ORDER: [u8; 32] = [
    0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14,
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
];

/// The same Ed25519 signature with its second half beyond the order.
fn beyond_order(made: &[u8]) -> Vec<u8> {
    let (point, number) = made.split_at(32);
    let mut carry = 0_u16;
    let mut all = point.to_vec();
    for (digit, order) in number.iter().zip(ORDER) {
        carry += u16::from(*digit) + u16::from(order);
        all.push((carry & 0xff) as u8);
        carry >>= 8;
    }
    assert_eq!(carry, 0, "it fits");
    all
}

/// The same ECDSA signature as X.509 writes it.
fn as_der(made: &[u8]) -> Vec<u8> {
    let integer = |half: &[u8]| {
        let start = half.iter().position(|byte| *byte > 0).unwrap_or(31);
        let digits = &half[start..];
        let sign = if digits[0] > 0x7f { &[0][..] } else { &[] };
        let length = u8::try_from(sign.len() + digits.len()).unwrap();
        [&[2, length][..], sign, digits].concat()
    };
    let both = [integer(&made[..32]), integer(&made[32..])].concat();
    [&[0x30, u8::try_from(both.len()).unwrap()][..], &both].concat()
}

#[tokio::test]
async fn a_signature_has_one_form_and_no_degenerate_one_is_good() {
    for pair in [Pair::rsa(), Pair::ec(), Pair::ed()] {
        let published = Published::new();
        published.publish(&pair, "k");
        published.look().await;
        let token = pair.token("k", &json!({}));
        assert_eq!(published.outcome(&token).await, Ok(()));
        let (signed, made) = token.rsplit_once('.').unwrap();
        let made = BASE64_URL_SAFE_NO_PAD.decode(made).unwrap();
        let mut forms = vec![
            vec![0; made.len()],
            vec![0xff; made.len()],
            made[1..].to_vec(),
            made[..made.len() - 1].to_vec(),
            [&made[..], &[0]].concat(),
            [&[0], &made[..]].concat(),
            [&made[..], &made[..]].concat(),
            vec![0],
        ];
        match pair {
            Pair::Rsa(_) => {}
            Pair::Ec(_) => {
                let zeros = [0; 32];
                forms.push([&zeros[..], &made[32..]].concat());
                forms.push([&made[..32], &zeros[..]].concat());
                forms.push(as_der(&made));
            }
            Pair::Ed(_) => forms.push(beyond_order(&made)),
        }
        for form in forms {
            let token = format!("{signed}.{}", BASE64_URL_SAFE_NO_PAD.encode(&form));
            let judged = published.outcome(&token).await;
            assert_eq!(judged, Err(TokenFault::Signature), "{}: {form:?}", pair.algorithm());
        }
    }
}
