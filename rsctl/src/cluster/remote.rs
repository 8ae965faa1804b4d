//! The private cluster where the job names other hosts: the coordinator is here, each worker is the end of
//! an ssh that this process holds. What a worker says, and what ssh does, is in a log here.

use std::collections::BTreeMap;

use anyhow::anyhow;

use common::exit::ExitCode;
use service::exit::Failure;

use crate::cluster::daemon::{Daemon, Launch, Stdout};
use crate::cluster::folder::Folder;
use crate::cluster::here::Machine;
use crate::cluster::{Cluster, binary, serve};
use crate::render;
use crate::ssh::look::{self, Seen};
use crate::ssh::script;
use crate::ssh::site::Order;
use crate::ssh::target::Target;

/// Only looked for, never made: workers of a run have temporary folders.
const NO_CLUSTER: &str = ".run";

impl Cluster {
    /// Looks at every host, then starts the coordinator and all workers.
    pub(crate) async fn start_on(order: &Order) -> Result<Self, Failure> {
        let coordinator = binary("coordinator")?;
        let seen = order.look(NO_CLUSTER).await;
        let (of, failed) = (seen.len(), seen.iter().filter(|seen| seen.is_err()).count());
        if failed > 0 {
            let error = anyhow!("{failed} of {of} hosts cannot have a worker; nothing was started");
            return Err(Failure::new(ExitCode::Failed, error)
                .hint("mend them, or leave them out with --exclude or --include"));
        }
        let seen: Vec<Option<&Seen>> = seen.iter().map(|seen| seen.as_ref().ok()).collect();
        let reach =
            look::reach(&order.targets, &seen, order.advertise.as_deref(), &Machine::this());
        reach.warnings.iter().for_each(render::warning);
        let folder = Folder::create(&std::env::temp_dir())?;
        let (coordinator, listening, secret) =
            serve(&coordinator, &reach.listen, order.runs, &folder).await?;
        let port = listening.rsplit_once(':').map(|(_, port)| port.to_owned());
        let port = port.ok_or_else(|| {
            Failure::new(ExitCode::Bug, anyhow!("the coordinator listens at `{listening}`"))
        })?;
        let masters: Vec<String> =
            reach.masters.iter().map(|master| format!("{master}:{port}")).collect();
        let mut cluster = Self {
            workers: Vec::with_capacity(of),
            coordinator,
            address: format!("127.0.0.1:{port}"),
            scratch: order.scratch.clone().unwrap_or_else(|| folder.path().join("runs")),
            folder,
            told: masters.first().cloned(),
            secret,
            meant: order.targets.iter().filter_map(Target::meant).collect(),
            slots: BTreeMap::new(),
        };
        let mut scripts = Vec::with_capacity(of);
        for (target, master) in order.targets.iter().zip(&masters) {
            let worker = cluster.open_shell(order, target)?;
            cluster.workers.push(worker);
            let arguments = order.arguments(target, master);
            scripts.push(script::attend(&script::Attend {
                program: &order.programs.worker,
                arguments: &arguments,
                variables: &order.variables_of(target),
                scratch: order.scratch.as_deref(),
            }));
        }
        let feeding = cluster.workers.iter_mut().zip(&scripts);
        futures::future::join_all(feeding.map(|(worker, script)| worker.feed(script))).await;
        Ok(cluster)
    }

    fn open_shell(&self, order: &Order, target: &Target) -> Result<Daemon, Failure> {
        let (program, arguments) = order.shell(target).command();
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        Ok(Daemon::start(&Launch {
            name: &target.worker,
            program: program.as_ref(),
            arguments: &arguments,
            log: &self.folder.path().join(format!("{}.log", target.worker)),
            stdout: Stdout::Logged,
            without: &[],
        })?)
    }
}
