//! The ring under stress, and what it does with a peer's counters and descriptors gone wrong.

use std::{fs::File, os::fd::OwnedFd, thread, time::Duration};

use proptest::prelude::*;

use crate::link::{End, Region, RegionLayout, Span};

const LAYOUT: RegionLayout = RegionLayout { ring: 128 << 10, channels: 1 };

#[expect(unsafe_code, reason = "a span of a local slice")]
fn span(bytes: &[u8]) -> Span {
    // SAFETY: the tests use the span within the statement that makes it.
    unsafe { Span::from_slice(bytes) }
}

/// Writer and reader on two threads with pieces of their own sizes; nobody polls, so each wait goes
/// through the futex, and a lost wake-up would cost a whole second.
fn check_passes_through(write_sizes: &[usize], read_sizes: &[usize], total: usize) {
    let (region, descriptor) = Region::create(LAYOUT).unwrap();
    let other = Region::open(descriptor, LAYOUT).unwrap();
    let (mut writer, mut reader) =
        (region.duplex(0, End::Dialer).writer, other.duplex(0, End::Acceptor).reader);
    let value = |at: usize| (at.wrapping_mul(31) >> 3) as u8;
    thread::scope(|scope| {
        scope.spawn(move || {
            let bytes: Vec<u8> = (0..total).map(value).collect();
            let (mut at, mut sizes) = (0, write_sizes.iter().cycle());
            while at < total {
                let end = total.min(at + sizes.next().unwrap());
                while at < end {
                    at += writer.write(span(&bytes[at..end]));
                    writer.publish();
                    if writer.free() == 0 {
                        writer.sleep(Duration::from_secs(1));
                    }
                }
            }
        });
        let (mut at, mut sizes) = (0, read_sizes.iter().cycle());
        while at < total {
            let wanted = (total - at).min(*sizes.next().unwrap());
            while reader.available() < wanted {
                reader.sleep(Duration::from_secs(1));
            }
            let view = reader.view(wanted);
            assert!(view.iter().enumerate().all(|(offset, byte)| *byte == value(at + offset)));
            reader.release(wanted);
            at += wanted;
        }
    });
}

#[test]
fn a_million_bytes_pass_with_a_sleep_at_every_turn() {
    check_passes_through(&[1, 70_000, 13], &[3, 100_000, 977], 3_000_000);
    check_passes_through(&[LAYOUT.ring], &[LAYOUT.ring], 10 * LAYOUT.ring);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    #[test]
    fn any_sizes_pass_through(
        write_sizes in prop::collection::vec(1_usize..=128 << 10, 1..5),
        read_sizes in prop::collection::vec(1_usize..=128 << 10, 1..5),
        total in 0_usize..600_000,
    ) {
        check_passes_through(&write_sizes, &read_sizes, total);
    }
}

#[test]
fn wrapped_bytes_are_seen_in_one_piece() {
    let (region, _descriptor) = Region::create(LAYOUT).unwrap();
    let mut writer = region.duplex(0, End::Dialer).writer;
    let mut reader = region.duplex(0, End::Acceptor).reader;
    let filler = vec![1; LAYOUT.ring - 10];
    assert_eq!(writer.write(span(&filler)), filler.len());
    writer.publish();
    reader.available();
    reader.release(filler.len());
    let bytes: Vec<u8> = (0..100).collect();
    assert_eq!((writer.free(), writer.write(span(&bytes))), (LAYOUT.ring, 100));
    writer.publish();
    assert_eq!(reader.available(), 100);
    assert_eq!(reader.view(100), bytes);
}

#[test]
fn unpublished_bytes_are_not_seen() {
    let (region, _descriptor) = Region::create(LAYOUT).unwrap();
    let mut duplex = region.duplex(0, End::Dialer);
    let reader = region.duplex(0, End::Acceptor).reader;
    duplex.writer.write(span(&[1, 2, 3]));
    assert_eq!(reader.available(), 0);
    duplex.writer.publish();
    assert_eq!(reader.available(), 3);
    // The other direction is another ring.
    assert_eq!(duplex.reader.available(), 0);
}

#[test]
fn foreign_memory_is_refused_unless_sealed_and_of_the_right_size() {
    let (_region, descriptor) = Region::create(LAYOUT).unwrap();
    let other = RegionLayout { channels: 2, ..LAYOUT };
    assert!(Region::open(descriptor, other).is_err());
    let unsealed: OwnedFd = tempfile_of(1 << 20).into();
    assert!(Region::open(unsealed, LAYOUT).is_err());
}

/// The kernel refuses to shrink what was sealed: no peer can turn our memory into a SIGBUS.
#[test]
fn shared_memory_cannot_be_truncated() {
    let (_region, descriptor) = Region::create(LAYOUT).unwrap();
    assert!(File::from(descriptor).set_len(0).is_err());
}

#[test]
fn a_region_s_size_is_bounded_in_every_world() {
    for world in [1, 2, 3, 5, 8, 64, 1000] {
        let layout = RegionLayout::new(world, 3);
        assert!(layout.ring.is_power_of_two());
        assert!((128 << 10..=512 << 10).contains(&layout.ring), "{layout:?}");
    }
    assert_eq!(RegionLayout::new(2, 1).ring, 512 << 10);
}

fn tempfile_of(bytes: u64) -> File {
    let file = nix::sys::memfd::memfd_create(c"test", nix::sys::memfd::MFdFlags::MFD_CLOEXEC);
    let file = File::from(file.unwrap());
    file.set_len(bytes).unwrap();
    file
}
