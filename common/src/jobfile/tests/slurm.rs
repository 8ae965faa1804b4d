//! Claims about `[slurm]`.

use super::*;

fn with(slurm: &str) -> String {
    format!(
        "data.kind = \"sine\"\n[resources]\nworld-size = 4\nthreads-per-rank = 2\n[slurm]\n{slurm}\n"
    )
}

#[test]
fn every_value_is_explained() {
    job(&with("partition = \"main\"\nnodes = 2\nextra = [\"--exclusive\"]")).explain(
        "slurm",
        &expect![[r#"
            slurm.nodes = 2  # job.toml:7
            slurm.partition = "main"  # job.toml:6
            slurm.account = -  # default: the site's
            slurm.time = -  # default: the site's
            slurm.gres = -  # default: none
            slurm.cpus-per-task = 4  # inferred from the ranks, their threads and slurm.nodes
            slurm.extra = ["--exclusive"]  # job.toml:8
        "#]],
    );
}

#[test]
fn a_job_without_the_table_still_could_be_submitted_with_an_allocation() {
    let loaded = job("data.kind = \"sine\"\nresources.world-size = 3\n").load().unwrap();
    assert_eq!((loaded.slurm.nodes, loaded.slurm.cpus_per_task), (1, 3));
    assert!(!loaded.explain.iter().any(|row| row.key.starts_with("slurm")));
    let flags = job("data.kind = \"sine\"\n").set("slurm.partition=long").load().unwrap();
    assert_eq!(flags.slurm.partition.as_deref(), Some("long"));
}

#[test]
fn all_mistakes_are_told_with_key_and_value() {
    let text = "partition = \"a b\"\ntime = \"\"\nnodes = 0\nextra = [\"-C\"]\nwalltime = \"1:00\"";
    job(&with(text)).check(&expect![[r#"
        job.toml:6: slurm.partition = "a b": ' ' cannot be in it: blanks, quotes, `\` and `#` mean something to SLURM
        job.toml:7: slurm.time = "": expected text, found nothing in the quotes
        job.toml:8: slurm.nodes = 0: expected an integer from 1 to 4096
        job.toml:9: slurm.extra = ["-C"]: `-C`: expected a long flag in one word, such as `--constraint=a100`
        job.toml:10: slurm.walltime: unknown key; use `time`
    "#]]);
    job(&with("nodes = 2\ncpus-per-task = 3")).check(&expect![[r#"
        job.toml:7: slurm.cpus-per-task = 3: 2 nodes of 3 CPUs have room for 2 ranks, and the job has 4
    "#]]);
    job(&with("extra = [\"--nodes=3\"]\ngres = \"gpu:1\\n#SBATCH --uid=0\""))
        .check(&expect![[r#"
            job.toml:6: slurm.extra = ["--nodes=3"]: `--nodes=3`: --nodes is not yours to set here: use slurm.nodes
            job.toml:7: slurm.gres = "gpu:1\n#SBATCH --uid=0": '\n' cannot be in it: blanks, quotes, `\` and `#` mean something to SLURM
        "#]]);
}
