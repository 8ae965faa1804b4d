use std::ffi::OsStr;

use collectives::Mesh;
use common::spec::{Offload, OffloadDevice};
use common::status::FailureKind;
use proto::convert;
use proto::v1::{Assignment, Peer};

use super::*;
use crate::control::tests::SPEC;

fn spec(change: impl FnOnce(&mut JobSpec)) -> JobSpec {
    let mut spec = convert::spec(SPEC).unwrap();
    change(&mut spec);
    spec
}

fn offloaded(spec: &mut JobSpec) {
    let (device, ratio, pin_memory) = (OffloadDevice::Cpu, 1.0, false);
    spec.zero.offload_optimizer = Some(Offload { device, ratio, pin_memory });
}

/// A rank on a GPU.
fn identity(rank: u32, world: u32, change: impl FnOnce(&mut JobSpec)) -> Identity {
    let assignment = Assignment {
        job_id: "a-1".to_owned(),
        rank,
        world,
        spec_json: convert::spec_json(&spec(change)),
        advertise: "127.0.0.1".to_owned(),
        cuda_device: Some(0),
        ..Assignment::default()
    };
    Identity::try_from(assignment).unwrap()
}

fn absent() -> Result<Nccl, NcclError> {
    Nccl::find(Some(OsStr::new("/nowhere/libnccl.so.2")))
}

#[test]
fn the_way_follows_from_what_a_gpu_keeps_and_how_ranks_may_speak() {
    let plain = spec(|_| {});
    assert_eq!(Way::of(&plain, 2, false), Way::Host);
    assert_eq!(Way::of(&plain, 2, true), Way::Nccl);
    assert_eq!(Way::of(&plain, 1, true), Way::NcclIfThere);
    assert_eq!(Way::of(&spec(offloaded), 2, true), Way::Host);
    for transport in [Transport::Tcp, Transport::SharedMemory] {
        let asked = spec(|spec| spec.resources.transport = transport);
        assert_eq!(Way::of(&asked, 2, true), Way::Host);
    }
}

#[test]
fn a_node_without_nccl_is_refused_with_what_was_tried_and_the_way_without_it() {
    for rank in [0, 1] {
        let failure = identity(rank, 2, |_| {}).find_nccl(absent).unwrap_err().failure();
        assert_eq!(failure.kind, FailureKind::Start);
        let said = failure.message;
        for part in ["/nowhere/libnccl.so.2", "resources.transport=tcp", "RUSTSPEED_NCCL_LIB"] {
            assert!(said.contains(part), "{said}");
        }
    }
}

#[test]
fn who_needs_no_nccl_does_without() {
    let mesh = Mesh::solo(1).abort_handle();
    let mut alone = identity(0, 1, |_| {});
    assert_eq!(alone.find_nccl(absent).unwrap(), Vec::<u8>::new());
    assert!(alone.meet_by_nccl(None, &mesh).unwrap().is_none());
    let unasked = || -> Result<Nccl, NcclError> { panic!("nobody looks for it") };
    let mut by_tcp = identity(0, 2, |spec| spec.resources.transport = Transport::Tcp);
    assert_eq!(by_tcp.find_nccl(unasked).unwrap(), Vec::<u8>::new());
    assert!(by_tcp.meet_by_nccl(None, &mesh).unwrap().is_none());
}

#[test]
fn ranks_meet_where_rank_0_says() {
    let point = UniqueId::from_bytes(&[7; 128]).unwrap();
    let table = |ids: [Vec<u8>; 2]| RankTable {
        peers: (0..)
            .zip(ids)
            .map(|(rank, nccl_id)| Peer { rank, nccl_id, ..Peer::default() })
            .collect(),
        ..RankTable::default()
    };
    assert_eq!(meeting_point(&table([vec![7; 128], vec![8; 128]])).unwrap(), Some(point));
    assert_eq!(meeting_point(&table([Vec::new(), vec![8; 128]])).unwrap(), None);
    let error = meeting_point(&table([Vec::new(), vec![1; 3]])).unwrap_err();
    assert!(matches!(error, Error::NcclId { rank: 1, bytes: 3 }), "{error}");
    // A trainer of another build has made none.
    let mesh = Mesh::solo(1).abort_handle();
    let error = identity(1, 2, |_| {}).meet_by_nccl(None, &mesh).unwrap_err();
    assert!(matches!(error, Error::NoMeetingPoint), "{error}");
    assert!(error.to_string().contains("resources.transport=tcp"), "{error}");
}

#[test]
fn a_meeting_that_was_called_off_is_a_departure() {
    let aborted = NcclError::Aborted { what: "meet", reason: "a peer is gone".to_owned() };
    assert!(Error::Nccl { source: aborted }.is_departure());
    assert!(!Error::Nccl { source: absent().unwrap_err() }.is_departure());
}
