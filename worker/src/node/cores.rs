//! Which ranks get which cores of this node.

use common::spec::CoreBinding;
use tracing::warn;

use super::Node;
use crate::config::Device;
use crate::cores::{Claim, NoCores, Want};
use crate::trainer_process::News;

impl Node {
    /// Those of each rank of a job, in their order. Ranks that are to be bound and cannot be float, and
    /// the job's notes say why.
    pub(super) fn claims(&mut self, job_id: &str, threads: u32) -> Vec<Claim> {
        let wants = self.wants(job_id, threads);
        match self.cores.give(&wants) {
            Ok(claims) => {
                let bound = claims.iter().filter_map(Claim::bound).min();
                if let Some(cores) = bound.filter(|cores| *cores < threads as usize) {
                    self.note(job_id, &format!("{threads} threads of a rank share {cores} cores"));
                }
                claims
            }
            Err(why) => {
                self.note(job_id, &format!("its ranks are not bound to cores: {why}"));
                wants.iter().map(|_| Claim::default()).collect()
            }
        }
    }

    /// Those of each rank of a command: as it asks for them, or as this worker binds all.
    pub(super) fn claims_of_command(
        &mut self,
        job_id: &str,
        threads: u32,
        binding: Option<&CoreBinding>,
    ) -> Result<Vec<Claim>, NoCores> {
        let wants = self.wants(job_id, threads);
        match binding {
            Some(binding) => self.cores.bind(binding.list.as_ref(), &wants),
            None if self.cores.binds() => Ok(self.claims(job_id, threads)),
            // Unasked nothing takes CPUs from a program that knows nothing of us.
            None => Ok(wants.iter().map(|_| Claim::default()).collect()),
        }
    }

    /// Whoever looks at the job reads it.
    fn note(&mut self, job_id: &str, said: &str) {
        let note = format!("worker `{}`: {said}", self.config.name);
        warn!(job = job_id, "{note}");
        if let Some(job) = self.jobs.get(job_id) {
            let (key, rank) = (job.key.clone(), job.ranks.keys().next().copied().unwrap_or(0));
            self.on_news(&key, rank, News::Notes(vec![note]));
        }
    }

    fn wants(&self, job_id: &str, threads: u32) -> Vec<Want> {
        let is_cuda = self.config.device == Device::Cuda;
        let near = |slot: u32| self.gpu_nodes.get(slot as usize).copied().flatten();
        let ranks = self.jobs.get(job_id).into_iter().flat_map(|job| job.ranks.values());
        let want = |slots: &Vec<u32>| Want {
            slots: slots.len(),
            threads: threads.max(1) as usize,
            near: slots.first().filter(|_| is_cuda).and_then(|slot| near(*slot)),
        };
        ranks.map(|rank| want(&rank.slots)).collect()
    }
}
