//! What trainers tell, and what the coordinator hears of it.

use proto::v1::worker_message::Kind;
use proto::v1::{Peer, TrainerEnded, TrainerStacks};
use tokio::time::Instant;
use tracing::debug;

use super::Node;
use crate::capture::unix_millis;
use crate::spool::Key;
use crate::trainer_process::{Ended, News};

impl Node {
    pub(super) fn on_news(&mut self, key: &Key, rank: u32, news: News) {
        let Some(job) = self.jobs.get_mut(&key.0).filter(|job| job.key == *key) else {
            debug!(job = key.0, generation = key.1, rank, "news of a forgotten trainer");
            return;
        };
        let Some(local) = job.ranks.get_mut(&rank) else { return };
        let kind = match news {
            News::Started { pid } => {
                local.pid = pid;
                return;
            }
            News::Hello { libtorch } => {
                local.libtorch.clone_from(&libtorch);
                self.libtorch = libtorch;
                return;
            }
            News::Listening(listening) => {
                local.peer = Some(Peer {
                    rank,
                    address: listening.address,
                    unix_name: listening.unix_name,
                    worker: self.config.name.clone(),
                    nccl_id: listening.nccl_id,
                });
                job.ready_message(&job.ranks[&rank])
            }
            News::Running => {
                local.is_running = true;
                job.running_message(rank)
            }
            News::Progress(progress) => job.on_progress(progress),
            News::Checkpoint(checkpoint) => job.on_checkpoint(checkpoint),
            News::Notes(notes) => job.on_notes(notes),
            News::Position(position) => {
                local.position = Some((position, Instant::now()));
                return;
            }
            News::Stacks(lines) => {
                let (job_id, generation) = key.clone();
                Kind::Stacks(TrainerStacks { job_id, generation, rank, lines })
            }
            News::Ended(ended) => {
                local.has_ended = true;
                local.orders = None;
                return self.on_ended(key, rank, ended);
            }
        };
        self.say(kind);
    }

    fn on_ended(&mut self, key: &Key, rank: u32, ended: Ended) {
        let end = TrainerEnded {
            job_id: key.0.clone(),
            generation: key.1,
            rank,
            end: Some(ended.end.into()),
            last_lines: ended.last_lines,
            summary_json: ended.summary_json,
            time_ms: unix_millis(),
        };
        self.outcomes.keep(&end);
        self.ends.insert((key.clone(), rank), end.clone());
        self.say(Kind::TrainerEnded(end));
    }
}
