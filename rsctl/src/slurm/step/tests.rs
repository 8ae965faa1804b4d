//! Claims about the step's arguments and its last words.

use expect_test::expect;

use super::*;

#[test]
fn one_step_takes_every_node_whole() {
    let step = Step {
        nodes: 2,
        master: "n1:40123",
        worker: Path::new("/opt/bin/worker"),
        trainer: Path::new("/opt/bin/trainer"),
        state_dir: Path::new("/work/runs/.slurm/17-co2/workers"),
        notice_grace: Duration::from_secs(45),
        is_elastic: false,
        runs: Runs::Jobs,
    };
    let expected = expect![[r#"
        --overlap
        --ntasks-per-node=1
        --cpu-bind=none
        --mpi=none
        --export=ALL
        --label
        --wait=0
        --job-name=rustspeed
        --nodes=2
        --ntasks=2
        --input=all
        --kill-on-bad-exit=1
        sh
        -c
        export RUSTSPEED_NOTICE_GRACE="$4"
        exec "$0" join --master "$1" --trainer "$2" --state-dir "$3/${SLURMD_NODENAME:?}" --name "$SLURMD_NODENAME" --slots "${SLURM_CPUS_ON_NODE:?}" --exit-with-stdin
        /opt/bin/worker
        n1:40123
        /opt/bin/trainer
        /work/runs/.slurm/17-co2/workers
        45000ms"#]];
    expected.assert_eq(&step.arguments().join("\n"));
    let elastic = Step { is_elastic: true, ..step };
    assert!(elastic.arguments().contains(&"--kill-on-bad-exit=0".to_owned()));
    let allowing = Step { runs: Runs::Commands, ..step }.arguments();
    let become_worker = allowing.iter().find(|word| word.contains("exec \"$0\" join")).unwrap();
    assert!(become_worker.ends_with("--exit-with-stdin --allow-commands"), "{become_worker}");
}

#[test]
fn the_first_node_that_srun_names_is_to_blame() {
    let words = "1: sh: 1: exec: /opt/bin/worker: not found\n\
                 srun: error: n2: task 1: Exited with exit code 127\n\
                 srun: launch/slurm: _step_signal: Terminating StepId=3.0\n\
                 srun: error: n1: tasks 0-1: Terminated\n";
    let blame = Blame::read(words).unwrap();
    let expected = ("n2".to_owned(), "Exited with exit code 127".to_owned());
    assert_eq!((blame.node.clone(), blame.how.clone()), expected);
    assert!(blame.is_missing_program());
    let killed = Blame::read("srun: error: n1: tasks 0-1: Killed").unwrap();
    assert_eq!((killed.node.as_str(), killed.is_missing_program()), ("n1", false));
    for words in ["", "srun: error: Unable to create step", "0: srun: error: n1: task 0: Killed"] {
        assert_eq!(Blame::read(words), None, "{words}");
    }
}
