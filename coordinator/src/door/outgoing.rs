//! Meaning → wire; never fails.

use std::time::Duration;

use common::ids::{Generation, Incarnation, JobId, Rank};
use control::coordinator::{Peer, RankKey, RankTable, StartOrder, StopMode, StopOrder};
use proto::convert;
use proto::v1;
use proto::v1::coordinator_message::Kind;
use proto::v1::start_trainers::RankSlots;

fn message(kind: Kind) -> v1::CoordinatorMessage {
    v1::CoordinatorMessage { kind: Some(kind) }
}

fn millis(duration: Duration) -> u64 {
    duration.as_millis().try_into().unwrap_or(u64::MAX)
}

pub(crate) fn welcome(
    incarnation: Incarnation,
    lease: Duration,
    heartbeat: Duration,
) -> v1::CoordinatorMessage {
    message(Kind::Welcome(v1::Welcome {
        coordinator_incarnation: incarnation.0,
        lease_ms: millis(lease),
        heartbeat_ms: millis(heartbeat),
    }))
}

pub(crate) fn refused(reason: String, is_retryable: bool) -> v1::CoordinatorMessage {
    message(Kind::Refused(v1::Refused { reason, is_retryable }))
}

pub(crate) fn ping() -> v1::CoordinatorMessage {
    message(Kind::Ping(v1::Ping {}))
}

pub(crate) fn start_trainers(order: StartOrder) -> v1::CoordinatorMessage {
    let ranks = order.ranks.into_iter();
    message(Kind::Start(v1::StartTrainers {
        job_id: order.job_id.into(),
        generation: order.generation.0,
        attempt: order.attempt.0,
        world: order.world,
        spec_json: convert::spec_json(&order.spec),
        job_toml: order.job_toml,
        uploads: order.uploads.into_iter().collect(),
        ranks: ranks.map(|(Rank(rank), slots)| RankSlots { rank, slots }).collect(),
    }))
}

pub(crate) fn rank_table(table: &RankTable) -> v1::CoordinatorMessage {
    let peer = |peer: &Peer| v1::Peer {
        rank: peer.rank.0,
        address: peer.address.clone(),
        unix_name: peer.unix_name.clone(),
        worker: peer.worker.clone(),
        nccl_id: peer.nccl_id.0.clone(),
    };
    message(Kind::RankTable(v1::RankTable {
        job_id: table.job_id.to_string(),
        generation: table.generation.0,
        token: table.token.0.to_vec(),
        peers: table.peers.iter().map(peer).collect(),
    }))
}

pub(crate) fn stop_job(order: StopOrder) -> v1::CoordinatorMessage {
    message(Kind::Stop(v1::StopJob {
        job_id: order.job_id.into(),
        generation: order.generation.0,
        reason: order.reason,
        gracefully: order.mode == StopMode::Gracefully,
        grace_ms: millis(order.grace),
    }))
}

pub(crate) fn show_stacks(
    job_id: JobId,
    generation: Generation,
    ranks: &[Rank],
) -> v1::CoordinatorMessage {
    let ranks = ranks.iter().map(|rank| rank.0).collect();
    message(Kind::ShowStacks(v1::ShowStacks {
        job_id: job_id.into(),
        generation: generation.0,
        ranks,
    }))
}

pub(crate) fn ends_acknowledged(ends: Vec<RankKey>) -> v1::CoordinatorMessage {
    let end = |key: RankKey| v1::RunningTrainer {
        job_id: key.job_id.into(),
        generation: key.generation.0,
        rank: key.rank.0,
        ..Default::default()
    };
    message(Kind::Ends(v1::EndsAcknowledged { ends: ends.into_iter().map(end).collect() }))
}

pub(crate) fn fetch_order(order: v1::FetchOrder) -> v1::CoordinatorMessage {
    message(Kind::Fetch(order))
}

pub(crate) fn probe_order(order: v1::ProbeOrder) -> v1::CoordinatorMessage {
    message(Kind::Probe(order))
}
