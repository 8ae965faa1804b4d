//! Variables of the ranks, by the words of torchrun and of deepspeed's launcher.

use common::spec::{HostSlots, Hosts};
use toml::{Table, Value};

use crate::commands::launch::Args;
use crate::hosts::Chosen;
use crate::launch::Error;
use crate::launch::meaning::{Like, Place, like, nproc};
use crate::launch::surroundings::Surroundings;
use crate::ssh::environment::{self, Variables};

/// Variables that deepspeed passes on to other nodes, by the beginning of their names.
const EXPORTED: [&str; 5] = ["NCCL", "PYTHON", "MLFLOW", "MV2", "UCX"];

pub(super) const VISIBLE: &str = "CUDA_VISIBLE_DEVICES";

/// What every rank gets, beside what is each rank's own.
pub(super) fn of_job(
    args: &Args,
    like: Like,
    place: Place,
    chosen: Option<&Chosen>,
    around: &Surroundings,
) -> Result<Table, Error> {
    let mut table = Table::new();
    let mut set = |name: &str, value: String| {
        table.insert(name.to_owned(), Value::String(value));
    };
    match place {
        Place::OnCluster => {
            let is_exported = |name: &str| EXPORTED.iter().any(|prefix| name.starts_with(prefix));
            for (name, value) in around.variables.iter().filter(|(name, _)| is_exported(name)) {
                set(name, value.clone());
            }
        }
        Place::Here if like == Like::Deepspeed => {
            let own = around.visible();
            let own = own.filter(|_| chosen.is_none() && args.num_gpus.is_none());
            let slots = match (own, chosen) {
                (Some(own), _) => own.to_owned(),
                (None, Some(chosen)) => listed(&chosen.hosts()?),
                (None, None) => numbers(0..nproc(args, like, around)?.get()),
            };
            set(VISIBLE, slots);
        }
        // Workers have the rest from us, and their ranks from them: nothing that may be a secret becomes a
        // part of the job.
        Place::Here | Place::OnHosts => {}
    }
    if let Some(port) = args.master_port {
        set("MASTER_PORT", port.to_string());
    }
    if let Some(run_id) = &args.compatible.rdzv_id {
        set("TORCHELASTIC_RUN_ID", run_id.clone());
    }
    if let Some(role) = &args.compatible.role {
        set("ROLE_NAME", role.clone());
    }
    Ok(table)
}

/// What goes to the workers that ssh starts, and from them to the ranks: what `rsctl cluster up` forwards,
/// and what deepspeed's launcher does.
pub(super) fn of_hosts(
    args: &Args,
    around: &Surroundings,
) -> Result<Variables, environment::Error> {
    let mut variables = Variables::with(&args.ssh.export, &EXPORTED)?;
    if like(args) == Like::Deepspeed {
        variables.put_first("PYTHONPATH", &around.folder);
    }
    Ok(variables)
}

/// The slots of the only host.
fn listed(hosts: &Hosts) -> String {
    match hosts.get(0).map(|host| &host.slots) {
        Some(slots @ HostSlots::These(_)) => {
            numbers((0..slots.least()).filter(|slot| slots.contains(*slot)))
        }
        Some(HostSlots::All) | None => String::new(),
    }
}

fn numbers(slots: impl Iterator<Item = u32>) -> String {
    slots.map(|slot| slot.to_string()).collect::<Vec<_>>().join(",")
}
