//! Claims about command lines of torchrun and deepspeed, as jobs.

use clap::Parser as _;
use common::spec::{Command, CoreBinding, JobSpec};

use super::*;
use crate::args;
use crate::cluster::here::Machine;

fn parse(line: &str) -> Args {
    let words = line.split_whitespace();
    let parsed = args::Args::try_parse_from(["rsctl", "launch"].into_iter().chain(words));
    match parsed.unwrap_or_else(|error| panic!("{line}: {error}")).command {
        args::Command::Launch(args) => *args,
        other => panic!("{other:?}"),
    }
}

fn around(gpus: u32, variables: &[(&str, &str)]) -> Surroundings {
    let text = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    Surroundings {
        folder: "/home/ada".into(),
        variables: variables.iter().map(text).collect(),
        cores: 6,
        gpus,
        find_program: |name| (name == "python3").then(|| "/venv/bin/python3".into()),
        machine: Machine {
            hostname: "head".to_owned(),
            has_address: |address| address.is_loopback(),
        },
    }
}

fn try_in(line: &str, around: &Surroundings) -> Result<(JobSpec, Vec<String>), Error> {
    let args = parse(line);
    let chosen = meaning::hosts(&args, around)?;
    let meaning = Meaning::of(&args, chosen.as_ref(), around)?;
    let spec = load(&args, &meaning, chosen.as_ref(), &around.folder)?;
    Ok((spec, meaning.notes))
}

fn spec(line: &str) -> JobSpec {
    try_in(line, &around(0, &[])).unwrap_or_else(|error| panic!("{line}: {error}")).0
}

fn command(line: &str) -> Command {
    spec(line).command.unwrap()
}

fn error(line: &str) -> String {
    let error = try_in(line, &around(0, &[])).expect_err(line);
    Failure::from(error).render()
}

#[test]
fn a_line_of_torchrun_means_the_same_here() {
    for line in [
        "--nproc 2 --max-restarts 3 train.py --lr 0.1 --nproc 9",
        "--nproc-per-node=2 --max_restarts=3 train.py --lr 0.1 --nproc 9",
        "--standalone --nnodes=1 --nproc_per_node 2 --max-restarts 3 train.py --lr 0.1 --nproc 9",
        "--nnodes 1:1 --node-rank 0 --nproc_per_node 2 --max-restarts 3 train.py --lr 0.1 --nproc 9",
    ] {
        let spec = spec(line);
        let command = spec.command.unwrap();
        let expected = ["python3", "-u", "train.py", "--lr", "0.1", "--nproc", "9"];
        assert_eq!(command.line, expected, "{line}");
        assert_eq!((command.local_rank_at, spec.resources.world_size), (None, Some(2)), "{line}");
        assert_eq!((spec.restart.application, spec.restart.infrastructure), (3, 3));
        assert_eq!(command.working_dir, std::path::Path::new("/home/ada"));
    }
    assert_eq!(spec("train.py").resources.world_size, Some(1));
    assert_eq!(spec("--nproc cpu train.py").resources.world_size, Some(6));
    assert_eq!(command("-m pkg.train -x").line, ["python3", "-u", "-m", "pkg.train", "-x"]);
    assert_eq!(command("--no_python ./a.sh -x").line, ["./a.sh", "-x"]);
    let named =
        spec("--master-port 29501 --rdzv_id r7 --role trainer --master_addr localhost a.py");
    let env: Vec<(&str, &str)> =
        named.job.env.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let expected =
        [("MASTER_PORT", "29501"), ("ROLE_NAME", "trainer"), ("TORCHELASTIC_RUN_ID", "r7")];
    assert_eq!(env, expected);
}

#[test]
fn a_line_of_deepspeed_passes_the_local_rank_and_the_slots() {
    let deepspeed = spec("--num_gpus 2 train.py --deepspeed_config ds.json");
    let line = deepspeed.command.unwrap();
    assert_eq!(line.arguments(1)[1..3], ["train.py", "--local_rank=1"]);
    assert_eq!(deepspeed.job.env["CUDA_VISIBLE_DEVICES"], "0,1");
    assert_eq!(command("--num_gpus 2 --no_local_rank a.py").local_rank_at, None);
    assert_eq!(command("--num_gpus 2 --no_python a.sh").arguments(0), ["--local_rank=0"]);
    assert_eq!(command("--num_gpus 2 -m pkg").arguments(0)[2..], ["pkg", "--local_rank=0"]);
    assert_eq!(command("--like deepspeed a.py").local_rank_at, Some(3));
    assert_eq!(command("--like torchrun --num_gpus 2 a.py").local_rank_at, None);
    let of_eight = around(8, &[]);
    let (spec, notes) = try_in("--include localhost:1,3 train.py", &of_eight).unwrap();
    assert_eq!(spec.job.env["CUDA_VISIBLE_DEVICES"], "1,3");
    assert_eq!(spec.resources.world_size, Some(2));
    assert!(notes[0].contains("--no_local_rank"), "{notes:?}");
    let (spec, _) = try_in("--exclude localhost:0 train.py", &of_eight).unwrap();
    assert_eq!(spec.job.env["CUDA_VISIBLE_DEVICES"], "1,2,3,4,5,6,7");
    let (spec, _) = try_in("--like deepspeed train.py", &of_eight).unwrap();
    assert_eq!(spec.resources.world_size, Some(8));
    let chosen = around(8, &[("CUDA_VISIBLE_DEVICES", "4,5")]);
    let (spec, _) = try_in("--like deepspeed train.py", &chosen).unwrap();
    let visible = &spec.job.env["CUDA_VISIBLE_DEVICES"];
    assert_eq!((spec.resources.world_size, visible.as_str()), (Some(2), "4,5"));
}

#[test]
fn an_empty_list_of_visible_gpus_is_of_none() {
    let hidden = around(8, &[("CUDA_VISIBLE_DEVICES", "")]);
    let world = |line: &str| try_in(line, &hidden).unwrap().0.resources.world_size;
    assert_eq!(world("--nproc auto train.py"), Some(6), "a rank on each core");
    assert!(matches!(try_in("--nproc gpu train.py", &hidden), Err(Error::NoGpus(_))));
    let (spec, _) = try_in("--like deepspeed train.py", &hidden).unwrap();
    let visible = &spec.job.env["CUDA_VISIBLE_DEVICES"];
    assert_eq!((spec.resources.world_size, visible.as_str()), (Some(1), ""));
    let unset = try_in("--nproc gpu train.py", &around(8, &[])).unwrap().0;
    assert_eq!(unset.resources.world_size, Some(8));
}

#[test]
fn a_coordinator_that_starts_anew_is_waited_for_as_by_submit_and_watch() {
    let parsed = args::Args::try_parse_from(["rsctl", "watch", "job"]).unwrap();
    let told = match parsed.command {
        args::Command::Watch(args) => args.patience.reconnect_timeout,
        other => panic!("{other:?}"),
    };
    assert_eq!(told, crate::commands::watch::RECONNECT_TIMEOUT);
}

#[test]
fn cores_are_bound_in_deepspeeds_words_and_in_torchruns() {
    let binding = |line: &str| command(line).binding;
    assert_eq!(binding("--nproc 2 a.py"), None);
    for line in [
        "--nproc 2 --bind-cores-to-rank a.py",
        "--num_gpus 2 --bind_cores_to_rank a.py",
        "--nproc 2 --numa-binding exclusive a.py",
        "--nproc 2 --numa_binding=exclusive a.py",
    ] {
        assert_eq!(binding(line), Some(CoreBinding { list: None }), "{line}");
    }
    let list = Some("0-3,8".parse().unwrap());
    for line in [
        "--nproc 2 --bind_cores_to_rank --bind_core_list 0-3,8 a.py",
        "--nproc 2 --bind-core-list 8,0-3 a.py",
    ] {
        assert_eq!(binding(line), Some(CoreBinding { list: list.clone() }), "{line}");
    }
    // With no word of torchrun's it is a line of deepspeed, whose scripts get their local rank.
    assert_eq!(command("--bind_cores_to_rank a.py").local_rank_at, Some(3));
    assert_eq!(command("--nproc 2 --bind-cores-to-rank a.py").local_rank_at, None);
    let text = error("--bind-core-list 0-1 --env KMP_AFFINITY=compact a.py");
    assert!(text.contains("job.env.KMP_AFFINITY"), "{text}");
}

#[test]
fn on_a_cluster_nodes_count_and_deepspeeds_variables_travel() {
    let here = around(0, &[("NCCL_DEBUG", "INFO"), ("PYTHONPATH", "/lib"), ("SECRET", "x")]);
    let (spec, _) = try_in("--master head --nnodes 2 --nproc 4 train.py", &here).unwrap();
    assert_eq!((spec.resources.world_size, spec.resources.workers), (Some(8), Some(2)));
    let names: Vec<&String> = spec.job.env.keys().collect();
    assert_eq!(names, ["NCCL_DEBUG", "PYTHONPATH"]);
    assert_eq!(spec.job.output_dir, std::path::Path::new("/home/ada/runs"));
}

#[test]
fn on_hosts_it_is_this_python_and_no_variable_becomes_a_part_of_the_job() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("hosts.txt");
    fs_err::write(&file, "head slots=2\nnode-1 slots=4\nnode-2 slots=4\n").unwrap();
    let hostfile = format!("--hostfile {}", file.display());
    let here = around(8, &[("NCCL_DEBUG", "INFO"), ("CUDA_VISIBLE_DEVICES", "7")]);
    let line = format!("{hostfile} --num_nodes 2 --num_gpus 2 --ssh_port 2222 train.py --lr 1");
    let (spec, notes) = try_in(&line, &here).unwrap();
    let command = spec.command.unwrap();
    assert_eq!(command.line, ["/venv/bin/python3", "-u", "train.py", "--lr", "1"]);
    assert_eq!(command.local_rank_at, Some(3));
    assert_eq!((spec.resources.world_size, spec.resources.workers), (Some(4), None));
    assert!(spec.job.env.is_empty(), "{:?}", spec.job.env);
    assert!(!notes.iter().any(|note| note.contains("no effect")), "{notes:?}");
    let (_, notes) = try_in(&format!("{hostfile} --master_addr node-1 a.py"), &here).unwrap();
    assert!(notes.iter().any(|note| note.contains("the host that has rank 0")), "{notes:?}");

    // The first of them is this machine.
    let (spec, notes) = try_in(&format!("{hostfile} -i head:1 --ssh_port 1 a.py"), &here).unwrap();
    assert_eq!(spec.command.unwrap().line[0], "python3");
    assert_eq!(spec.job.env["CUDA_VISIBLE_DEVICES"], "1");
    assert!(notes.iter().any(|note| note.starts_with("--ssh_port has no effect")), "{notes:?}");
    // Elsewhere it is the worker's.
    let (spec, _) = try_in(&format!("--master head {hostfile} a.py"), &here).unwrap();
    assert_eq!(spec.command.unwrap().line[0], "python3");
    assert_eq!(spec.resources.world_size, Some(10));
}

#[test]
fn what_would_not_do_what_it_says_is_refused_with_what_to_do() {
    for (line, parts) in [
        ("--nproc 2 --frobnicate train.py", ["unknown flag `--frobnicate`", "--help"]),
        ("--nnodes 2 --nproc 2 train.py", ["this machine is one node", "--master"]),
        ("--nnodes 1:4 train.py", ["--nnodes MIN:MAX", "min-ranks"]),
        ("--nnodes two train.py", ["`two`", "number of nodes"]),
        ("--node_rank 1 train.py", ["--node-rank", "one command starts all"]),
        ("--master_addr 10.0.0.9 train.py", ["10.0.0.9", "--master"]),
        ("--master head --master_addr head train.py", ["--master-addr", "rank 0"]),
        ("--master head --include node-1 train.py", ["--include with --master", "--hostfile FILE"]),
        ("--master head --exclude node-1:0 a.py", ["--exclude with --master", "--hostfile FILE"]),
        ("--nproc gpu train.py", ["no GPU", "--nproc 2"]),
        ("--numa-binding node train.py", ["--numa-binding", "--bind-cores-to-rank"]),
        ("--autotuning run train.py", ["--autotuning", "--sweep"]),
        ("--hostfile /absent train.py", ["read hostfile", "/absent"]),
        ("--env RANK=1 train.py", ["job.env.RANK", "each rank"]),
    ] {
        let text = error(line);
        for part in parts {
            assert!(text.contains(part), "{line}: no `{part}` in {text}");
        }
    }
}

#[test]
fn flags_that_have_nothing_to_do_here_say_so() {
    let line = "--standalone --rdzv-backend c10d --rdzv_endpoint localhost:0 --monitor_interval 1 \
                --start-method spawn --launcher pdsh --no_ssh_check -r 3 train.py";
    let (_, notes) = try_in(line, &around(0, &[])).unwrap();
    for flag in
        ["--standalone", "--rdzv-endpoint", "--monitor-interval", "--launcher", "--redirects"]
    {
        assert!(notes.iter().any(|note| note.starts_with(flag)), "{flag}: {notes:?}");
    }
    assert!(parse("--tee 3 a.py").compatible.wants_prefix());
    assert!(!parse("-t 0 a.py").compatible.wants_prefix());
}
