//! Jobs that run a program of the user's own.

use super::*;
use crate::spec::{Command, CoreBinding, Restart};

const TRAIN: &str = "[job]\ncommand = [\"python\", \"train.py\", \"--lr\", 0.1]\n";

#[test]
fn a_command_is_a_whole_job() {
    let spec = job(&format!("{TRAIN}[resources]\nworld-size = 2\n")).spec();
    let command = spec.command.clone().unwrap();
    assert_eq!(command.line, ["python", "train.py", "--lr", "0.1"]);
    assert_eq!(command.working_dir, Path::new("/home/ada/jobs"));
    assert_eq!((command.local_rank_at, spec.resources.world_size), (None, Some(2)));
    // It tells no steps by which one failure could be told from the next.
    assert_eq!(
        (spec.restart.same_step, spec.restart.without_progress),
        (Restart::MAX, Restart::MAX)
    );
    assert_eq!(spec.notes, [Command::UNWATCHED]);
    for world in [1, 7, 4096] {
        batch::plan(&spec.training.batch, world).unwrap();
    }
    let json = serde_json::to_string(&spec).unwrap();
    assert_eq!(serde_json::from_str::<JobSpec>(&json).unwrap(), spec);
    assert_eq!(explain::from_toml(&explain::to_toml(&spec).unwrap()).unwrap(), spec);
}

#[test]
fn a_command_may_ask_for_cores_of_its_own() {
    let binding = |more: &str| job(&format!("{TRAIN}{more}\n")).spec().command.unwrap().binding;
    assert_eq!(binding(""), None);
    assert_eq!(binding("bind-cores-to-rank = false"), None);
    assert_eq!(binding("bind-cores-to-rank = true"), Some(CoreBinding { list: None }));
    let list = Some("0-3,8".parse().unwrap());
    assert_eq!(binding("bind-core-list = \"0-3,8\""), Some(CoreBinding { list }));
}

#[test]
fn a_job_without_a_command_reads_and_is_written_as_before() {
    let spec = job("data.kind = \"sine\"\n").spec();
    assert_eq!(spec.command, None);
    assert!(!serde_json::to_string(&spec).unwrap().contains("command"));
}

#[test]
fn what_only_our_trainer_reads_is_refused_by_name() {
    let text = "deepspeed-config = \"absent.json\"\n[job]\ncommand = [\"./train.sh\"]\nseed = 3\n\
                hang-timeout = \"10s\"\nenv = { RANK = \"0\", MASTER_PORT = \"29501\" }\n\
                [model]\nkind = \"lstm\"\n[data]\nkind = \"sine\"\n[training]\nepochs = 3\n\
                [checkpoint]\nkeep-last = 1\n[resources]\ntransport = \"tcp\"\n";
    job(text).check(&expect![[r#"
        job.toml:1: deepspeed-config: a job with job.command has none: the command decides what it trains
        job.toml:4: job.seed: a job with job.command has none: only our trainer reads it
        job.toml:5: job.hang-timeout: a command tells no steps, so that it hangs is not seen; job.time-limit bounds it
        job.toml:6: job.env.RANK: each rank of a command has its own
        job.toml:7: model: a job with job.command has none: the command decides what it trains
        job.toml:9: data: a job with job.command has none: the command decides what it trains
        job.toml:11: training: a job with job.command has none: the command decides what it trains
        job.toml:13: checkpoint: a job with job.command has none: the command decides what it trains
        job.toml:16: resources.transport: a job with job.command has none: only our trainer reads it
    "#]]);
}

#[test]
fn a_wrong_command_is_told_with_what_would_be_right() {
    for (text, expected) in [
        (
            "[job]\ncommand = \"python train.py\"\n",
            expect![[r#"
            job.toml:2: job.command = "python train.py": expected the program and its arguments, such as ["python", "train.py"]
        "#]],
        ),
        (
            "[job]\ncommand = []\n",
            expect![[r#"
            job.toml:2: job.command = []: expected the program and its arguments, such as ["python", "train.py"]; 1 to 4096 words
        "#]],
        ),
        (
            "[job]\ncommand = [\"a\"]\nlocal-rank-at = 7\n",
            expect![[r#"
            job.toml:3: job.local-rank-at = 7: job.command has 1 word: expected 1 to 1
        "#]],
        ),
        (
            "[job]\ncommand = [\"a\"]\nbind-core-list = \"0-x\"\n",
            expect![[r#"
            job.toml:3: job.bind-core-list = "0-x": `0-x` is no list of CPUs such as `0-3,8`, each from 0 to 8191
        "#]],
        ),
        (
            "[job]\ncommand = [\"a\"]\nbind-cores-to-rank = false\nbind-core-list = 3\n\
             env = { KMP_AFFINITY = \"compact\" }\n",
            expect![[r#"
            job.toml:4: job.bind-core-list = 3: job.bind-cores-to-rank is false; leave one of them out
        "#]],
        ),
        (
            "[job]\ncommand = [\"a\"]\nbind-cores-to-rank = true\nenv = { KMP_AFFINITY = \"compact\" }\n",
            expect![[r#"
            job.toml:4: job.env.KMP_AFFINITY: it places threads where job.bind-cores-to-rank forbids it; give either
        "#]],
        ),
        (
            "data.kind = \"sine\"\njob.bind-cores-to-rank = true\n",
            expect![[r#"
            job.toml:2: job.bind-cores-to-rank: it is for a job with job.command; worker join has it for others
        "#]],
        ),
        (
            "[command]\nline = \"x\"\n[data]\nkind = \"sine\"\n",
            expect![[r#"
            job.toml:1: command: write it as a list below [job]: job.command
        "#]],
        ),
        (
            "data.kind = \"sine\"\njob.working-dir = \"/x\"\n",
            expect![[r#"
            job.toml:2: job.working-dir = "/x": it is for a job with job.command
        "#]],
        ),
    ] {
        job(text).check(&expected);
    }
}

#[test]
fn explain_says_what_has_no_meaning_for_a_command() {
    job(TRAIN).explain("job.", &expect![[r#"
        job.name = "job"  # default: the job file's name
        job.seed = -  # a command does not read it
        job.priority = 0  # default
        job.time-limit = -  # default: no bound
        job.output-dir = "/home/ada/here/runs"  # default: runs
        job.collective-timeout = -  # a command does not read it
        job.hang-timeout = -  # a command tells no steps, so that it hangs is not seen; job.time-limit bounds it
        job.command = ["python", "train.py", "--lr", "0.1"]  # job.toml:2
        job.working-dir = "/home/ada/jobs"  # default: the job file's folder
        job.local-rank-at = -  # default: no --local_rank is passed
        job.bind-cores-to-rank = false  # default: as the worker has it
        job.bind-core-list = -  # default: a part of all cores for each rank
    "#]]);
    job(&format!("{TRAIN}bind-core-list = \"3,0-1\"\n")).explain(
        "job.bind",
        &expect![[r#"
        job.bind-cores-to-rank = true  # job.bind-core-list asks for it
        job.bind-core-list = "0-1,3"  # job.toml:3
    "#]],
    );
    job(TRAIN).explain(
        "restart.same",
        &expect![[r#"
        restart.same-step = 300  # default
    "#]],
    );
}
