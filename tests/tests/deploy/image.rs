//! The images without an engine: their commands, environment and user, in a root of their own that nobody can
//! write to, as the compose file starts them. What a build puts there is an installed tree here.

use std::process::Command;
use std::time::Duration;

use tests::binaries::workspace_root;
use tests::network::with_network;
use tests::process::Running;

use crate::docker::stages;
use crate::installed::Installed;
use crate::linter::yaml;

/// `start NAME COMMAND...` is a container: state of its own, no capabilities, nothing to write but its
/// volumes and, where the compose file gives it one, /tmp. All mounts are gone with the process.
const ENGINE: &str = r#"
set -eu
root=$1 tree=$2 libtorch=$3 checkout=$4
mount --make-rprivate /
mount -t tmpfs tmpfs "$root"
mkdir -p "$root"/{usr,etc,proc,dev,sys,tmp,data,checkout,var/lib/rustspeed,volumes}
for folder in /bin /lib /lib64 /sbin; do
    if [ -L "$folder" ]; then cp -a "$folder" "$root$folder"; else mkdir "$root$folder"; mount --rbind "$folder" "$root$folder"; fi
done
for folder in usr etc proc dev sys; do mount --rbind "/$folder" "$root/$folder"; done
mount --bind "$tree" "$root/usr/local"
mount --bind "$libtorch" "$root/usr/local/lib/rustspeed"
mount -o bind,ro "$checkout" "$root/checkout"
mount -t tmpfs tmpfs "$root/data"
chown 10001:10001 "$root/data"
start() {
    local state=$root/volumes/$1
    install -d -o 10001 -g 10001 "$state"
    shift
    exec unshare -m bash -ec '
        root=$1 state=$2; shift 2
        mount --bind "$state" "$root/var/lib/rustspeed"
        if [ "$1" = tmp ]; then mount -t tmpfs tmpfs "$root/tmp"; fi; shift
        mount -o remount,bind,ro "$root"
        exec chroot "$root" setpriv --reuid 10001 --regid 10001 --clear-groups --no-new-privs \
            --bounding-set=-all --inh-caps=-all -- env -i -C /data PATH=/usr/local/bin:/usr/bin:/bin \
            HOME=/var/lib/rustspeed "$@"' bash "$root" "$state" "$@"
}
trap 'kill $(jobs -p) 2>/dev/null || true' EXIT
"#;

/// What the image starts, after what `env` needs before it.
fn command(image: &str, more: &str) -> String {
    let stages = stages();
    let stage = stages.iter().find(|stage| stage.name == image).unwrap();
    let lines = |key: &str| -> Vec<String> {
        let lines = stage.instructions.iter().filter_map(|line| line.strip_prefix(key));
        lines.map(str::to_owned).collect()
    };
    let words = |key: &str| -> Vec<String> {
        lines(key)
            .iter()
            .flat_map(|line| serde_json::from_str::<Vec<String>>(line).unwrap())
            .collect()
    };
    let service = &yaml("deploy/docker/compose.yaml")[0]["services"][image];
    assert_eq!(service["read_only"], true, "{image}");
    let tmp = if service["tmpfs"].is_array() { "tmp" } else { "none" };
    let environment = service["environment"].as_object().into_iter().flatten();
    // There is no name server: one machine is all there is.
    let environment = environment.map(|(key, value)| {
        format!("{key}={}", value.as_str().unwrap().replace("coordinator:", "127.0.0.1:"))
    });
    let environment: Vec<_> = lines("ENV ").into_iter().chain(environment).collect();
    let program = [words("ENTRYPOINT "), words("CMD ")].concat().join(" ");
    format!("start {image} {tmp} {} {program} {more}", environment.join(" "))
}

#[test]
fn images_train_a_job_as_their_user_on_a_root_that_cannot_be_written() {
    let installed = Installed::lay();
    let library = installed.prefix().join("lib/rustspeed/libtorch_cpu.so");
    let libtorch = fs_err::canonicalize(library).unwrap();
    let root = installed.folder().join("root");
    fs_err::create_dir(&root).unwrap();
    let submit =
        "submit /checkout/configs/jobs/co2-lstm.toml --upload --watch --set training.epochs=1";
    let script = format!(
        "{ENGINE}\n({coordinator}) & coordinator=$!\n({worker}) & worker=$!\n\
         until (: </dev/tcp/127.0.0.1/29500) 2>/dev/null; do sleep 0.1; done\n({rsctl})\n\
         stat -c '%u %n' \"$root\"/data/runs/*/summary.json\n\
         kill $worker; wait $worker; kill $coordinator; wait $coordinator; echo stopped\n",
        coordinator = command("coordinator", ""),
        worker = command("worker", ""),
        rsctl = command("rsctl", submit),
    );
    with_network(0, |_| {
        let mut engine = Command::new("timeout");
        engine.args(["170", "unshare", "-m", "bash", "-c", &script, "bash"]);
        engine.arg(&root).arg(installed.prefix()).arg(libtorch.parent().unwrap());
        engine.arg(workspace_root());
        let mut running = Running::start(&mut engine, &installed.folder().join("log"));
        let status = running.wait(Duration::from_secs(180));
        let said = running.output();
        assert!(status.success() && said.contains("\nstopped\n"), "{status}:\n{said}");
        assert!(said.contains("\n10001 "), "results are another user's:\n{said}");
    });
}
