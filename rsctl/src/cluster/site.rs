//! Where a private cluster is: on this machine, or on the hosts that its job names.

use common::spec::{Device, JobSpec};
use common::units::count;
use service::exit::Failure;

use crate::cluster::here::Machine;
use crate::cluster::plan::{Plan, Slots};
use crate::cluster::{Cluster, Runs};
use crate::hosts::Chosen;
use crate::ssh::environment::Variables;
use crate::ssh::site::Order;
use crate::ssh::{SshArgs, target};

#[derive(Debug)]
pub(crate) enum Site {
    Here(Plan, Runs),
    OnHosts(Box<Order>),
}

impl Site {
    pub(crate) async fn start(&self) -> Result<Cluster, Failure> {
        match self {
            Self::Here(plan, runs) => Ok(Cluster::start(plan, *runs).await?),
            Self::OnHosts(order) => Cluster::start_on(order).await,
        }
    }

    /// For a person.
    pub(crate) fn choice(&self, spec: &JobSpec) -> String {
        match self {
            Self::Here(plan, _) => plan.choice.clone(),
            Self::OnHosts(order) => {
                let hosts = count(order.targets.len() as u64, "host");
                match spec.resources.largest_world() {
                    Some(world) => format!("{} on {hosts}", count(world.into(), "rank")),
                    None => format!("all slots of {hosts}"),
                }
            }
        }
    }

    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Here(..) => "this machine",
            Self::OnHosts(_) => "these hosts",
        }
    }

    /// Whether the worker looks how many slots there are.
    pub(crate) fn looks_for_slots(&self) -> bool {
        matches!(self, Self::Here(plan, _) if plan.slots == Slots::Auto)
    }
}

/// The workers that the job's hosts are to have, as long as the command runs.
pub(crate) fn order(
    spec: &JobSpec,
    chosen: Option<&Chosen>,
    ssh: &SshArgs,
    variables: Variables,
    machine: &Machine,
) -> Result<Order, Failure> {
    let targets = match (chosen, &spec.resources.hosts) {
        // Who logs in stands in the hostfile alone.
        (Some(chosen), _) => target::of_hostfile(chosen, machine)?,
        (None, Some(hosts)) => target::of_job(hosts, machine)?,
        (None, None) => Vec::new(),
    };
    Ok(Order {
        targets,
        ssh: ssh.ssh(),
        programs: ssh.programs(),
        variables,
        advertise: ssh.advertise.clone(),
        master: None,
        port: 0,
        is_cuda: spec.resources.device == Device::Cuda,
        is_kept: false,
        runs: Runs::of(spec),
        scratch: None,
        shows_slots: false,
    })
}
