use std::process::Command;

use expect_test::expect;

use super::*;

fn request() -> Request {
    Request {
        partition: Some("main".to_owned()),
        account: None,
        time: Some("2:00:00".to_owned()),
        gres: Some("gpu:2".to_owned()),
        nodes: 2,
        cpus_per_task: 4,
        extra: vec!["--constraint=[a&b]".to_owned()],
    }
}

fn render(bin_dir: &str, output_dir: &str) -> String {
    render_as(bin_dir, output_dir, false)
}

fn render_as(bin_dir: &str, output_dir: &str, allows_commands: bool) -> String {
    Script {
        allocation: &"tiny-x7k2p9.1".parse().unwrap(),
        request: &request(),
        is_elastic: false,
        master: "head:29500",
        bin_dir: Path::new(bin_dir),
        output_dir: Path::new(output_dir),
        leave_after: Duration::from_secs(300),
        allows_commands,
    }
    .render()
}

#[test]
fn the_whole_script() {
    expect![[r##"
        #!/bin/sh
        #SBATCH --job-name=tiny-x7k2p9.1
        #SBATCH --comment=rustspeed
        #SBATCH --nodes=2
        #SBATCH --ntasks-per-node=1
        #SBATCH --cpus-per-task=4
        #SBATCH --partition=main
        #SBATCH --time=2:00:00
        #SBATCH --gres=gpu:2
        #SBATCH --no-requeue
        #SBATCH --output=/dev/null
        #SBATCH --signal=USR1@60
        #SBATCH --constraint=[a&b]

        main() {
          folder='/home/ada/runs/.slurm'
          mkdir -p -- "$folder" || exit
          exec >>"$folder/tiny-x7k2p9.1.log" 2>&1 </dev/null
          unset SLURM_CPUS_PER_TASK SRUN_CPUS_PER_TASK SLURM_TRES_PER_TASK SLURM_GPUS_PER_TASK SLURM_NTASKS_PER_GPU SLURM_NTASKS_PER_SOCKET SLURM_NTASKS_PER_CORE SLURM_EXACT SLURM_STEP_GRES
          export RUSTSPEED_NOTICE_GRACE=45s
          # scancel tells this shell, too: the workers go first.
          trap : TERM
          srun --overlap --ntasks-per-node=1 --cpu-bind=none --mpi=none --export=ALL --label --wait=0 --job-name=rustspeed --nodes=2 --ntasks=2 --kill-on-bad-exit=1 \
            sh -c 'exec "$0" join --master "$1" --trainer "$2" --state-dir "$3/${SLURMD_NODENAME:?}" --name "$SLURMD_NODENAME-${SLURM_JOB_ID:?}" --slots "${SLURM_CPUS_ON_NODE:?}" --allocation "$4" --leave-after "$5"' \
            '/opt/rustspeed/bin/worker' \
            'head:29500' \
            '/opt/rustspeed/bin/trainer' \
            '/home/ada/runs/.slurm/tiny-x7k2p9.1' \
            'tiny-x7k2p9.1' \
            '300000ms' &
          srun=$!
          wait "$srun"
          code=$?
          while kill -0 "$srun" 2>/dev/null; do
            wait "$srun"
            code=$?
          done
          rm -rf -- "$folder/tiny-x7k2p9.1"
          exit "$code"
        }
        main
    "##]].assert_eq(&render("/opt/rustspeed/bin", "/home/ada/runs"));
}

/// The script's own words, with programs of ours in the place of SLURM's.
#[test]
fn hostile_paths_reach_the_worker_as_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let hostile = folder.path().join("a b'c\"d $(touch pwned) `touch pwned` \\e;f");
    let (bin_dir, output_dir) = (hostile.join("bin"), hostile.join("out"));
    fs_err::create_dir_all(&bin_dir).unwrap();
    let srun = "#!/bin/sh\nwhile [ \"$1\" != sh ]; do shift; done\nexec \"$@\"\n";
    let worker = "#!/bin/sh\nfor word in \"$@\"; do printf '<%s>\\n' \"$word\"; done\n";
    for (name, text) in [("srun", srun), ("worker", worker)] {
        let path = bin_dir.join(name);
        fs_err::write(&path, text).unwrap();
        let permissions = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs_err::set_permissions(&path, permissions).unwrap();
    }
    // `:` cannot be in a folder of PATH; nothing else is left out.
    fs_err::os::unix::fs::symlink(bin_dir.join("srun"), folder.path().join("srun")).unwrap();
    let script = render(bin_dir.to_str().unwrap(), output_dir.to_str().unwrap());
    let status = Command::new("sh")
        .args(["-c", &script])
        .current_dir(folder.path())
        .env("PATH", format!("{}:/usr/bin:/bin", folder.path().display()))
        .envs([("SLURMD_NODENAME", "node1"), ("SLURM_JOB_ID", "17"), ("SLURM_CPUS_ON_NODE", "4")])
        .status()
        .unwrap();
    assert!(status.success());
    let said = fs_err::read_to_string(output_dir.join(".slurm/tiny-x7k2p9.1.log")).unwrap();
    let words: Vec<&str> = said.lines().collect();
    let path = |path: std::path::PathBuf| format!("<{}>", path.display());
    let expected = [
        "<join>".to_owned(),
        "<--master>".to_owned(),
        "<head:29500>".to_owned(),
        "<--trainer>".to_owned(),
        path(bin_dir.join("trainer")),
        "<--state-dir>".to_owned(),
        path(output_dir.join(".slurm/tiny-x7k2p9.1/node1")),
        "<--name>".to_owned(),
        "<node1-17>".to_owned(),
        "<--slots>".to_owned(),
        "<4>".to_owned(),
        "<--allocation>".to_owned(),
        "<tiny-x7k2p9.1>".to_owned(),
        "<--leave-after>".to_owned(),
        "<300000ms>".to_owned(),
    ];
    assert_eq!(words, expected);
    assert!(!folder.path().join("pwned").exists());
}

#[test]
fn workers_run_programs_where_the_coordinator_lets_jobs_have_them() {
    let (plain, allowing) = (render("/opt", "/runs"), render_as("/opt", "/runs", true));
    let of_the_worker = "--leave-after \"$5\"";
    let expected = plain.replace(of_the_worker, &format!("{of_the_worker} --allow-commands"));
    assert_ne!(plain, expected);
    assert_eq!(allowing, expected, "and nothing else differs");
}

#[test]
fn a_script_that_is_cut_off_does_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let output_dir = folder.path().join("out");
    let script = render("/opt", output_dir.to_str().unwrap());
    let cut = script.strip_suffix("main\n").unwrap();
    let status = Command::new("sh").args(["-c", cut]).status().unwrap();
    assert!(status.success() && !output_dir.exists());
}
