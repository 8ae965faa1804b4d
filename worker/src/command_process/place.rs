//! Where one process of a command is among the others, and the variables that tell it: the names and
//! meanings of torchrun and of DeepSpeed's launcher. Pure.

use std::net::SocketAddr;

use proto::v1::RankTable;

/// A rank among the others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    rank: u32,
    world: u32,
    /// Among the ranks of its node, in their order.
    pub(super) local_rank: u32,
    pub(super) local_world: u32,
    /// Nodes are counted in the order of their first ranks.
    node: u32,
    nodes: u32,
    /// Where rank 0 is, and a port there that was free.
    master: SocketAddr,
}

/// What the attempt is, the same for all of its ranks.
#[derive(Debug, Clone)]
pub(super) struct Attempt<'a> {
    pub(super) job_id: &'a str,
    /// The first is 1.
    pub(super) number: u32,
    pub(super) max_restarts: u32,
    pub(super) run_dir: &'a str,
}

impl Place {
    /// None: the table is not one of this rank.
    pub(super) fn of(rank: u32, table: &RankTable) -> Option<Self> {
        let mut peers: Vec<_> = table.peers.iter().collect();
        peers.sort_by_key(|peer| peer.rank);
        let own = peers.iter().find(|peer| peer.rank == rank)?;
        let mut nodes: Vec<&str> = Vec::new();
        for peer in &peers {
            if !nodes.contains(&peer.worker.as_str()) {
                nodes.push(&peer.worker);
            }
        }
        let is_here = |worker: &str| worker == own.worker;
        let here = peers.iter().filter(|peer| is_here(&peer.worker));
        Some(Self {
            rank,
            world: u32::try_from(peers.len()).ok()?,
            local_rank: u32::try_from(here.clone().filter(|peer| peer.rank < rank).count()).ok()?,
            local_world: u32::try_from(here.count()).ok()?,
            node: u32::try_from(nodes.iter().position(|node| is_here(node))?).ok()?,
            nodes: u32::try_from(nodes.len()).ok()?,
            master: peers.first()?.address.parse().ok()?,
        })
    }

    /// Whether rank 0 is on its node.
    pub(super) fn is_beside_rank_0(&self) -> bool {
        self.node == 0
    }

    /// Each rank's own, whatever the job says.
    pub(super) fn variables(&self, attempt: &Attempt<'_>) -> Vec<(&'static str, String)> {
        let Self { rank, world, local_rank, local_world, node, nodes, .. } = *self;
        let restarts = attempt.number.saturating_sub(1);
        let numbers = [
            ("RANK", rank),
            ("LOCAL_RANK", local_rank),
            ("ROLE_RANK", rank),
            ("NODE_RANK", node),
            ("GROUP_RANK", node),
            ("CROSS_RANK", node),
            ("WORLD_SIZE", world),
            ("LOCAL_WORLD_SIZE", local_world),
            ("LOCAL_SIZE", local_world),
            ("ROLE_WORLD_SIZE", world),
            ("GROUP_WORLD_SIZE", nodes),
            ("CROSS_SIZE", nodes),
            ("TORCHELASTIC_RESTART_COUNT", restarts),
            ("RUSTSPEED_ATTEMPT", attempt.number),
        ];
        let texts = [
            ("RUSTSPEED_JOB_ID", attempt.job_id.to_owned()),
            ("RUSTSPEED_RUN_DIR", attempt.run_dir.to_owned()),
        ];
        numbers.into_iter().map(|(name, n)| (name, n.to_string())).chain(texts).collect()
    }

    /// Those that the job, or whoever started the worker, may have set to something else.
    pub(super) fn defaults(&self, attempt: &Attempt<'_>) -> Vec<(&'static str, String)> {
        vec![
            ("MASTER_ADDR", self.master.ip().to_string()),
            ("MASTER_PORT", self.master.port().to_string()),
            ("ROLE_NAME", "default".to_owned()),
            ("TORCHELASTIC_RUN_ID", attempt.job_id.to_owned()),
            ("TORCHELASTIC_MAX_RESTARTS", attempt.max_restarts.to_string()),
            // Rank 0 serves torch's store itself.
            ("TORCHELASTIC_USE_AGENT_STORE", "False".to_owned()),
            ("TORCH_NCCL_ASYNC_ERROR_HANDLING", "1".to_owned()),
            // Lines arrive when they are written.
            ("PYTHONUNBUFFERED", "1".to_owned()),
        ]
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proto::v1::Peer;

    use super::*;

    fn table(workers: &[&str]) -> RankTable {
        let peer = |(rank, worker): (u32, &&str)| Peer {
            rank,
            address: format!("10.0.0.{}:{}", rank + 1, 40_000 + rank),
            worker: (*worker).to_owned(),
            ..Peer::default()
        };
        RankTable { peers: (0..).zip(workers).map(peer).collect(), ..RankTable::default() }
    }

    fn variables(rank: u32, workers: &[&str]) -> BTreeMap<&'static str, String> {
        let attempt = Attempt { job_id: "a-1", number: 2, max_restarts: 3, run_dir: "/runs/a-1" };
        let place = Place::of(rank, &table(workers)).unwrap();
        place.variables(&attempt).into_iter().chain(place.defaults(&attempt)).collect()
    }

    #[test]
    fn ranks_of_uneven_nodes_know_their_places() {
        let workers = ["b", "b", "b", "a", "a"];
        let of = |rank: u32, names: &[&str]| -> Vec<String> {
            let all = variables(rank, &workers);
            names.iter().map(|name| all[name].clone()).collect()
        };
        let names = ["RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "CROSS_RANK"];
        assert_eq!(of(2, &names), ["2", "2", "3", "0", "0"]);
        assert_eq!(of(4, &names), ["4", "1", "2", "1", "1"]);
        for rank in 0..5 {
            let names = ["WORLD_SIZE", "GROUP_WORLD_SIZE", "CROSS_SIZE", "MASTER_ADDR"];
            assert_eq!(of(rank, &names), ["5", "2", "2", "10.0.0.1"]);
            assert_eq!(of(rank, &["MASTER_PORT"]), ["40000"], "that of rank 0");
            let place = Place::of(rank, &table(&workers)).unwrap();
            assert_eq!(place.is_beside_rank_0(), rank < 3);
        }
        let restarts = ["TORCHELASTIC_RESTART_COUNT", "TORCHELASTIC_MAX_RESTARTS"];
        assert_eq!(of(0, &restarts), ["1", "3"]);
    }

    #[test]
    fn every_rank_has_what_a_job_cannot_set() {
        let own = variables(0, &["a"]);
        for name in common::spec::Command::OWN_VARIABLES {
            assert!(own.contains_key(name), "{name}");
        }
        assert_eq!(Place::of(7, &table(&["a"])), None);
    }
}
