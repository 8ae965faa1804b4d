//! Claims about `resources.min-ranks` and `max-ranks`.

use super::*;
use crate::batch;

fn elastic(resources: &str, training: &str) -> String {
    format!("data.kind = \"sine\"\n[resources]\n{resources}\n[training]\n{training}\n")
}

#[test]
fn bounds_and_what_the_batch_is_in_each_world() {
    let text = elastic("min-ranks = 2\nmax-ranks = 3", "batch-size = 48");
    let spec = job(&text).load().unwrap().spec;
    assert!(spec.resources.is_elastic());
    let cut = |world| {
        let plan = batch::plan(&spec.training.batch, world).unwrap();
        (plan.batch_size.value, plan.gradient_accumulation.value, plan.largest_run())
    };
    assert_eq!((cut(3), cut(2)), ((48, 1, 16), (48, 2, 12)));
    job(&text).explain(
        "resources",
        &expect![[r#"
            resources.world-size = -  # min-ranks and max-ranks decide
            resources.min-ranks = 2  # job.toml:3
            resources.max-ranks = 3  # job.toml:4
            resources.workers = -  # default: no bound
            resources.hosts = -  # default: any worker
            resources.device = "auto"  # default
            resources.threads-per-rank = 1  # default
            resources.transport = "auto"  # default
        "#]],
    );
}

#[test]
fn a_world_from_the_command_line_wins() {
    let text = elastic("min-ranks = 2\nmax-ranks = 3", "batch-size = 48");
    let mut job = job(&text);
    job.flags.push(Override::flag("resources.world-size", 4, "--gpus 4"));
    let resources = job.load().unwrap().spec.resources;
    assert_eq!((resources.world_size, resources.is_elastic()), (Some(4), false));
    assert_eq!((resources.min_ranks, resources.max_ranks), (None, None));
}

#[test]
fn what_cannot_be_is_refused() {
    job(&elastic("world-size = 2\nmin-ranks = 3\nmax-ranks = 2", "")).check(&expect![[r#"
        job.toml:3: resources.world-size = 2: min-ranks and max-ranks are for a job without it; give either
    "#]]);
    job(&elastic("min-ranks = 3\nmax-ranks = 2\nworkers = 4", "")).check(&expect![[r#"
        job.toml:3: resources.min-ranks = 3: more than resources.max-ranks, 2
        job.toml:5: resources.workers = 4: more workers than the 2 ranks of resources.max-ranks
    "#]]);
    job(&elastic("min-ranks = 2", "micro-batch-size = 8")).check(&expect![[r#"
        job.toml: training: an elastic job keeps its batch-size in every world; give it, or resources.max-ranks, which micro-batch-size 8 (job.toml:5) is multiplied by
    "#]]);
    job(&elastic("min-ranks = 4\nmax-ranks = 8", "batch-size = 3")).check(&expect![[r#"
        job.toml: training: batch-size 3 (job.toml:6) is smaller than the world of 4 ranks: use at most 3 ranks or a batch-size of at least 4
    "#]]);
    let strict = "batch-size = 48\nmicro-batch-size = 8\nbatch-mismatch = \"error\"";
    assert!(job(&elastic("min-ranks = 1\nmax-ranks = 5", strict)).load().is_ok());
    job(&elastic("min-ranks = 4\nmax-ranks = 5", strict)).check(&expect![[r#"
        job.toml: training: batch-size 48 (job.toml:6) is not a multiple of micro-batch-size 8 (job.toml:7) times world 4, and batch-mismatch = "error"; valid are: batch-size = 32 with gradient-accumulation = 1; or batch-size = 64 with gradient-accumulation = 2; or micro-batch-size = 6 with gradient-accumulation = 2; or world-size = 6
    "#]]);
}
