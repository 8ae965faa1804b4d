//! What is written can be read, and nothing else passes for it.

use proptest::prelude::*;

use crate::{
    DataType, OpKind, ReduceOp, Signature,
    header::{self, Header},
    mesh::notice::{Notice, Parsed},
};

fn headers() -> impl Strategy<Value = Header> {
    let reduction = prop::option::of((0_usize..6, 0_usize..4));
    let root = prop::option::of(0_u32..1000);
    (any::<u64>(), 0_usize..6, any::<u64>(), reduction, root).prop_map(
        |(sequence, kind, bytes, reduction, root)| {
            let kind = OpKind::ALL[kind];
            let reduction = reduction.map(|(of, by)| (DataType::ALL[of], ReduceOp::ALL[by]));
            Header { sequence, signature: Signature { kind, bytes, reduction, root } }
        },
    )
}

proptest! {
    #[test]
    fn headers_come_back_as_they_went(header in headers()) {
        prop_assert_eq!(Header::decode(&header.encode()), Some(header));
    }

    #[test]
    fn any_bytes_are_a_header_or_refused(bytes in prop::array::uniform32(any::<u8>())) {
        if let Some(header) = Header::decode(&bytes) {
            prop_assert_eq!(Header::decode(&header.encode()), Some(header));
        }
    }

    #[test]
    fn a_header_with_another_beginning_is_refused(header in headers(), at in 0_usize..2) {
        let mut encoded = header.encode();
        encoded[at] ^= 0x40;
        prop_assert_eq!(Header::decode(&encoded), None);
    }

    #[test]
    fn any_bytes_on_a_control_connection_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        if let Parsed::Whole(_, taken) = Notice::parse(&bytes) {
            prop_assert!(taken <= bytes.len());
        }
    }
}

#[test]
fn notices_come_back_whole_and_only_when_complete() {
    let notices = [
        Notice::Goodbye,
        Notice::PeerLost { rank: 7 },
        Notice::Aborted { reason: "loss is NaN at step 12 — stop".to_owned() },
    ];
    for notice in notices {
        let encoded = notice.encode();
        for cut in 0..encoded.len() {
            assert_eq!(Notice::parse(&encoded[..cut]), Parsed::Incomplete);
        }
        assert_eq!(Notice::parse(&encoded), Parsed::Whole(notice, encoded.len()));
    }
}

#[test]
fn a_long_reason_is_cut_between_characters() {
    let notice = Notice::Aborted { reason: "ü".repeat(5000) };
    let Parsed::Whole(Notice::Aborted { reason }, _) = Notice::parse(&notice.encode()) else {
        panic!("not a whole notice");
    };
    assert!(reason.len() <= 1024 && reason.chars().all(|letter| letter == 'ü'));
}

#[test]
fn a_header_is_as_long_as_it_says() {
    assert_eq!(header::BYTES, 32);
}
