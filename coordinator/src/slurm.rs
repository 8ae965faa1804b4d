//! Makes true what is wanted of SLURM: asks for allocations, looks after them, gives them back. Its
//! orders come whole from `control`, its news go there; it decides nothing but when to ask again.
//!
//! Promise: nothing is submitted twice. Before an allocation is asked for it is looked for by its name,
//! and for a while where an earlier life may have asked for it a moment ago.

mod commands;
mod site;

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use common::slurm::allocation::AllocationName;
use common::slurm::queue::Row;
use common::slurm::script::Script;
use control::coordinator::{AllocationNews, AllocationOrder, Wanted};
use service::backoff::Backoff;

use crate::core::{Handle, Input};

use self::commands::{Commands, Trouble};
pub(crate) use self::site::Site;

/// How often SLURM is asked while anything is wanted of it; one call for all allocations.
const POLL: Duration = Duration::from_secs(2);

/// An `sbatch` of an earlier life, or one that gave no clear answer, has put its job into the queue
/// within this time, or never will.
const LOOK_FOR: Duration = Duration::from_secs(10);

/// Workers that are told to leave say goodbye and are gone within this time.
const GOODBYE: Duration = Duration::from_secs(4);

/// Between two tries to submit.
const RETRY: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(60));

pub(crate) struct Agent {
    site: Site,
    commands: Commands,
    wanted: watch::Receiver<Vec<AllocationOrder>>,
    core: Handle,
    known: BTreeMap<AllocationName, Known>,
    /// Whether the first orders were seen: those are of an earlier life.
    is_settled: bool,
}

/// SLURM's queue, asked for at that moment.
struct Picture {
    at: Instant,
    rows: Result<Vec<Row>, Trouble>,
}

/// What this life knows of an allocation beyond its order.
#[derive(Debug)]
struct Known {
    /// The news that was told last: what is the same is not told again.
    told: Option<AllocationNews>,
    /// It may be in the queue already, and is looked for until then.
    look_until: Option<Instant>,
    retry: Backoff,
    retry_at: Instant,
    /// Its workers were told to leave.
    goodbye_at: Option<Instant>,
}

impl Agent {
    pub(crate) fn new(
        site: Site,
        wanted: watch::Receiver<Vec<AllocationOrder>>,
        core: Handle,
    ) -> Self {
        let commands = Commands::default();
        Self { site, commands, wanted, core, known: BTreeMap::new(), is_settled: false }
    }

    /// Serves until `stop`; allocations go on without us.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        loop {
            let orders = self.wanted.borrow_and_update().clone();
            let work = async {
                self.round(&orders).await;
                let idle = orders.is_empty();
                tokio::select! {
                    changed = self.wanted.changed() => changed.is_ok(),
                    () = tokio::time::sleep(POLL), if !idle => true,
                }
            };
            tokio::select! {
                goes_on = work => if !goes_on { return },
                () = stop.cancelled() => return,
            }
        }
    }

    async fn round(&mut self, orders: &[AllocationOrder]) {
        self.known.retain(|name, _| orders.iter().any(|order| order.name == *name));
        let now = Instant::now();
        let look_until = (!self.is_settled).then_some(now + LOOK_FOR);
        self.is_settled = true;
        for order in orders {
            self.known.entry(order.name.clone()).or_insert_with(|| Known::new(now, look_until));
        }
        if orders.is_empty() {
            return;
        }
        let picture = Picture { at: now, rows: self.commands.queue().await };
        // What goes back does not wait for what is asked for.
        let (wanted, unwanted): (Vec<_>, Vec<_>) =
            orders.iter().partition(|order| order.wanted.is_some());
        for order in unwanted.into_iter().chain(wanted) {
            let news = self.serve(order, &picture).await;
            if let Some(news) = news {
                self.tell(&order.name, news).await;
            }
        }
    }

    /// SLURM's answers take time: the order may be another one by now.
    fn is_still_wanted(&self, name: &AllocationName) -> bool {
        let orders = self.wanted.borrow();
        orders.iter().any(|order| order.name == *name && order.wanted.is_some())
    }

    async fn tell(&mut self, name: &AllocationName, news: AllocationNews) {
        let Some(known) = self.known.get_mut(name) else { return };
        if known.told.as_ref() == Some(&news) {
            return;
        }
        debug!(allocation = %name, ?news, "SLURM");
        known.told = Some(news.clone());
        // A loop that is gone needs no news.
        let _ = self.core.send(Input::Allocation { name: name.clone(), news }).await;
    }

    async fn serve(
        &mut self,
        order: &AllocationOrder,
        picture: &Picture,
    ) -> Option<AllocationNews> {
        match order.slurm_job {
            Some(id) => self.look_after(order, id, picture).await,
            None => self.ask(order, picture).await,
        }
    }

    /// An allocation that has no number yet.
    async fn ask(&mut self, order: &AllocationOrder, picture: &Picture) -> Option<AllocationNews> {
        let may_be_there = self.known.get(&order.name)?.look_until.is_some();
        let rows = match &picture.rows {
            Ok(rows) => rows,
            // An earlier life's may be in the queue.
            Err(trouble) if may_be_there => {
                return Some(AllocationNews::Delayed { words: trouble.to_string() });
            }
            Err(trouble) => return Some(trouble.news()),
        };
        let name = order.name.to_string();
        // A pool that was removed and comes again counts from 1 again, and SLURM shows for some minutes
        // what has ended.
        let is_ours = |row: &&Row| {
            let is_past = order.name.pool().is_some() && row.is_over();
            row.name == name && !is_past
        };
        if let Some(row) = rows.iter().find(is_ours) {
            info!(allocation = name, slurm_job = row.id, "found in SLURM's queue");
            return Some(AllocationNews::Accepted { slurm_job: row.id });
        }
        let (now, known) = (Instant::now(), self.known.get_mut(&order.name)?);
        // A picture of before that moment does not show what came at it.
        if known.look_until.is_some_and(|until| picture.at < until) {
            return None;
        }
        let Some(wanted) = &order.wanted else {
            return Some(AllocationNews::Gone { state: "was never in its queue".to_owned() });
        };
        if now < known.retry_at {
            return None;
        }
        if !self.is_still_wanted(&order.name) {
            return None;
        }
        let script = self.script(&order.name, wanted);
        let asked = self.commands.submit(script.render(), &script.options()).await;
        let known = self.known.get_mut(&order.name)?;
        match asked {
            Ok(slurm_job) => {
                info!(allocation = name, slurm_job, "submitted to SLURM");
                Some(AllocationNews::Accepted { slurm_job })
            }
            Err(trouble) => {
                warn!(allocation = name, %trouble, "not submitted to SLURM");
                let now = Instant::now();
                known.retry_at = now + known.retry.next_wait_jittered();
                known.look_until = Some(now + LOOK_FOR);
                Some(trouble.news())
            }
        }
    }

    fn script<'a>(&'a self, name: &'a AllocationName, wanted: &'a Wanted) -> Script<'a> {
        let Site { master, bin_dir, lease, allows_commands } = &self.site;
        Script {
            allocation: name,
            request: &wanted.request,
            is_elastic: wanted.is_elastic,
            master,
            bin_dir,
            output_dir: &wanted.output_dir,
            leave_after: *lease,
            allows_commands: *allows_commands,
        }
    }

    /// An allocation that is in SLURM's queue, or was.
    async fn look_after(
        &mut self,
        order: &AllocationOrder,
        id: u64,
        picture: &Picture,
    ) -> Option<AllocationNews> {
        let rows = match &picture.rows {
            Ok(rows) => rows,
            // It is there whether we see it or not.
            Err(trouble) => return Some(AllocationNews::Delayed { words: trouble.to_string() }),
        };
        let name = order.name.to_string();
        for twin in rows.iter().filter(|row| row.name == name && row.id != id && !row.is_over()) {
            warn!(allocation = name, slurm_job = twin.id, "cancelling a second one of this name");
            self.commands.cancel(twin.id).await;
        }
        // A controller that has forgotten its last seconds gives a number away again.
        let Some(row) = rows.iter().find(|row| row.id == id && row.name == name) else {
            return Some(AllocationNews::Gone { state: String::new() });
        };
        if row.is_over() {
            return Some(AllocationNews::Gone { state: ended(row) });
        }
        if order.wanted.is_none() {
            self.give_back(&order.name, row).await;
        }
        let Row { state, reason, nodes, .. } = row.clone();
        Some(AllocationNews::Seen { state, reason, nodes })
    }

    /// First the workers: what they have to say is said before they are killed.
    async fn give_back(&mut self, name: &AllocationName, row: &Row) {
        let Some(known) = self.known.get_mut(name) else { return };
        let now = Instant::now();
        match known.goodbye_at {
            None if row.state == "RUNNING" => {
                known.goodbye_at = Some(now);
                info!(allocation = %name, slurm_job = row.id, "its workers are told to leave");
                self.commands.tell_to_leave(row.id).await;
            }
            Some(at) if now < at + GOODBYE => {}
            _ if row.state == "COMPLETING" => {}
            _ => {
                info!(allocation = %name, slurm_job = row.id, "cancelled");
                self.commands.cancel(row.id).await;
            }
        }
    }
}

impl Known {
    fn new(now: Instant, look_until: Option<Instant>) -> Self {
        let retry = Backoff::new(RETRY.0, RETRY.1);
        Self { told: None, look_until, retry, retry_at: now, goodbye_at: None }
    }
}

fn ended(row: &Row) -> String {
    match row.reason.is_empty() {
        true => row.state.clone(),
        false => format!("{} ({})", row.state, row.reason),
    }
}
