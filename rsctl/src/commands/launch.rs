//! `rsctl launch`: a script on several ranks, in the words of `torchrun` and of `deepspeed`.

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::process::ExitCode as ProcessExit;

use common::cores::CoreList;
use service::exit::Failure;

use crate::launch::{self, Compatible, Like, Nproc};
use crate::master::Master;
use crate::ssh::SshArgs;

/// Run a script on several ranks: a drop-in for torchrun and deepspeed
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Every rank gets the environment that torchrun and deepspeed give (RANK, LOCAL_RANK, WORLD_SIZE,
MASTER_ADDR, a MASTER_PORT that is free, ...). What the ranks write comes here as it is written; the
exit code is that of the rank that failed first (128 + the signal's number where one ended it).
Ctrl-C stops all ranks with SIGTERM (exit code 4); a second one kills them.

Flags come before the script; both spellings work (--nproc-per-node, --nproc_per_node). With a flag
that only deepspeed has, or --like deepspeed, the script gets --local_rank=N as its first argument,
and CUDA_VISIBLE_DEVICES holds the slots that are used.

It starts a coordinator and a worker of its own on this machine. Where a hostfile names other hosts,
ssh starts a worker on each of them, and they end with the command, also with a kill -9 of it; what
ssh and variables are like is told by `rsctl cluster up --help`. NCCL*, PYTHON*, MLFLOW*, MV2* and
UCX* go there, too, and .deepspeed_env. The script is at the same path on every host. With --master
it runs on the workers of a coordinator: both were started with --allow-commands.

Examples:
  rsctl launch --nproc 2 train.py --lr 0.1
  rsctl launch --nproc-per-node 4 --max-restarts 3 -m package.train
  rsctl launch --num_gpus 2 train.py --deepspeed_config ds.json
  rsctl launch --nproc 2 --no-python ./train.sh
  rsctl launch --hostfile hosts.txt --num_nodes 2 train.py --deepspeed_config ds.json
  rsctl launch --hostfile hosts.txt --ssh_port 2222 --export LD_LIBRARY_PATH train.py
  rsctl launch --nproc 2 --bind-cores-to-rank --bind-core-list 0-15 train.py
  rsctl launch --master head --nnodes 2 --nproc 8 train.py
  rsctl launch --master head --hostfile hosts.txt --include node-1@node-2:0,1 train.py")]
pub(crate) struct Args {
    /// Ranks on each node: a number, gpu (one per GPU), cpu (one per core) or auto [default: 1]
    #[arg(long, value_name = "N|gpu|cpu|auto", aliases = ["nproc-per-node", "nproc_per_node"],
          conflicts_with = "num_gpus")]
    pub(crate) nproc: Option<Nproc>,
    /// Ranks on each node, as deepspeed: the first N slots
    #[arg(long, value_name = "N", aliases = ["num_gpus", "num-accelerators", "num_accelerators"])]
    pub(crate) num_gpus: Option<NonZeroU32>,
    /// Nodes; more than 1 with --master or --hostfile [default: 1]
    #[arg(long, value_name = "N", conflicts_with = "num_nodes")]
    pub(crate) nnodes: Option<String>,
    /// Of the hostfile use the first N hosts
    #[arg(long, value_name = "N", alias = "num_nodes")]
    pub(crate) num_nodes: Option<NonZeroU32>,
    /// Use the hosts and slots of this DeepSpeed hostfile only
    #[arg(short = 'H', long, value_name = "FILE")]
    pub(crate) hostfile: Option<PathBuf>,
    /// Use these hosts and slots: HOST or HOST:SLOT,SLOT, joined by @
    #[arg(short, long, value_name = "HOSTS", conflicts_with = "exclude")]
    pub(crate) include: Option<String>,
    /// Use all hosts and slots but these
    #[arg(short, long, value_name = "HOSTS")]
    pub(crate) exclude: Option<String>,
    /// Run on the workers of this coordinator, not on this machine
    #[arg(long, value_name = "HOST[:PORT]")]
    pub(crate) master: Option<Master>,
    /// The script is a module: python -m
    #[arg(short, long)]
    pub(crate) module: bool,
    /// The script is a program of its own, not one of Python
    #[arg(long, alias = "no_python", conflicts_with = "module")]
    pub(crate) no_python: bool,
    /// Whose defaults hold [default: torchrun, or deepspeed where a flag is only its own]
    #[arg(long, value_enum)]
    pub(crate) like: Option<Like>,
    /// Never pass --local_rank=N to the script
    #[arg(long, alias = "no_local_rank")]
    pub(crate) no_local_rank: bool,
    /// Start all ranks again after a failure, at most N times
    #[arg(long, value_name = "N", alias = "max_restarts", default_value = "0",
          value_parser = clap::value_parser!(u32).range(0..=300))]
    pub(crate) max_restarts: u32,
    /// MASTER_PORT [default: one that is free]
    #[arg(long, value_name = "PORT", alias = "master_port",
          value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) master_port: Option<u16>,
    /// Set an environment variable of every rank; may repeat
    #[arg(long, value_name = "NAME=V")]
    pub(crate) env: Vec<String>,
    /// Give each rank physical cores of its own, and OMP_NUM_THREADS as many unless it is set
    #[arg(long, alias = "bind_cores_to_rank")]
    pub(crate) bind_cores_to_rank: bool,
    /// Split these CPUs of each node among its ranks
    #[arg(long, value_name = "0-3,8", alias = "bind_core_list")]
    pub(crate) bind_core_list: Option<CoreList>,
    /// Begin each line with [rank N]; torchrun's --tee does so too
    #[arg(long)]
    pub(crate) prefix: bool,
    /// Show what these ranks write, and no others
    #[arg(long, value_name = "N,N", aliases = ["local-ranks-filter", "local_ranks_filter"],
          value_delimiter = ',')]
    pub(crate) ranks: Vec<u32>,
    /// Keep the job file and the logs of all ranks in a folder in here
    #[arg(long, value_name = "DIR", aliases = ["log_dir", "enable_each_rank_log", "enable-each-rank-log"])]
    pub(crate) log_dir: Option<PathBuf>,
    /// Say nothing but what the ranks write and how it ended
    #[arg(short, long)]
    pub(crate) quiet: bool,
    #[command(flatten)]
    pub(crate) ssh: SshArgs,
    #[command(flatten)]
    pub(crate) compatible: Compatible,
    /// The script and its arguments
    #[arg(
        value_name = "SCRIPT",
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    pub(crate) line: Vec<String>,
}

impl Args {
    pub(crate) fn binds_cores(&self) -> bool {
        self.bind_cores_to_rank || self.bind_core_list.is_some()
    }
}

pub(crate) async fn execute(args: Args) -> Result<ProcessExit, Failure> {
    launch::execute(args).await
}
