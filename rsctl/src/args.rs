//! The command line as typed. Each command's own arguments stand with the command.

use clap::{Parser, Subcommand};

use crate::commands;

/// What users of other tools look for in the help.
macro_rules! usual_ranges {
    () => {
        "\n
Keys of a job, their defaults for synthetic-timeseries and usual ranges (outside is a warning):
  model.hidden-size  128    32 to 1024       data.samples    20000  1000 to 100000
  model.num-layers   2      1 to 8           data.features   3
  data.window        50     10 to 500        data.noise      0.05
  training.epochs    100    1 to 1000        data.sampling-rate 0.1
Every key with its value and origin: rsctl config explain job.toml"
    };
}
pub(crate) use usual_ranges;

/// Trains models on one machine or many, from one job file.
#[derive(Debug, Parser)]
#[command(
    name = "rsctl",
    version,
    max_term_width = 100,
    disable_help_subcommand = true,
    after_help = "\
Exit codes: 0 done, 1 the job or operation failed, 2 usage, 3 coordinator unreachable,
            4 cancelled, 70 a bug, 75 preempted (slurm run: requeue it), 78 bad configuration

Start here:
  rsctl init timeseries demo      write a job that runs at once
  rsctl run demo/job.toml         train it on this machine"
)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Run(commands::run::Args),
    Launch(Box<commands::launch::Args>),
    Slurm(commands::slurm::Args),
    Submit(commands::submit::Args),
    Jobs(commands::jobs::Args),
    Status(commands::status::Args),
    Watch(commands::watch::Args),
    Explain(commands::explain::Args),
    Logs(commands::logs::Args),
    Metrics(commands::metrics::Args),
    Cancel(commands::cancel::Args),
    Preempt(commands::preempt::Args),
    Requeue(commands::requeue::Args),
    Workers(commands::workers::Args),
    Drain(commands::drain::Args),
    Hostfile(commands::hostfile::Args),
    Cluster(commands::cluster::Args),
    Fetch(commands::fetch::Args),
    Checkpoints(commands::checkpoints::Args),
    Config(commands::config::Args),
    Doctor(commands::doctor::Args),
    Init(commands::init::Args),
    Completions(commands::completions::Args),
}
