//! The GPUs of this node that a process may use: by NVML where the driver has brought it, else by the
//! driver's own files. Says what is there; absent evidence is a smaller answer, never an error.

use std::ffi::OsStr;
use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use common::status::{Gpu, Gpus};
use fs_err as fs;

use crate::config::Device;
use crate::nvml;

/// Starting a driver takes seconds where nothing keeps it loaded; a broken one answers never.
const NVML_DEADLINE: Duration = Duration::from_secs(10);

/// Which GPUs a process may use, as for every CUDA program.
pub(crate) const CHOICE: &str = "CUDA_VISIBLE_DEVICES";

/// Blocks for at most [`NVML_DEADLINE`].
pub(crate) fn visible() -> Gpus {
    let choice = std::env::var_os(CHOICE);
    let told = ask_nvml(Path::new(nvml::LIBRARY), NVML_DEADLINE);
    of(told, Path::new("/"), choice.as_deref())
}

/// `CUDA_VISIBLE_DEVICES` for processes that are to see the GPUs of these slots, in their order:
/// entries of the worker's own choice, where it has one.
pub(crate) fn choice_of(slots: &[u32]) -> String {
    narrowed(std::env::var(CHOICE).ok().as_deref(), slots)
}

fn narrowed(choice: Option<&str>, slots: &[u32]) -> String {
    let entries: Vec<&str> = choice.map_or_else(Vec::new, |list| list.split(',').collect());
    let entry = |slot: &u32| match entries.get(*slot as usize) {
        Some(entry) => entry.trim().to_owned(),
        None => slot.to_string(),
    };
    slots.iter().map(entry).collect::<Vec<_>>().join(",")
}

/// What whoever starts the worker must know about this node's GPUs.
pub(crate) fn word(gpus: &Gpus, device: Device) -> Option<String> {
    if gpus.devices.is_empty() {
        return None;
    }
    let unproven = "computing on GPUs has not been proven on one yet";
    Some(match device {
        Device::Cpu => format!(
            "this node has GPUs ({gpus}), and this worker offers its cores: {unproven}; --device cuda \
             offers the GPUs"
        ),
        Device::Cuda => {
            format!("offering GPUs ({gpus}): {unproven}; --device cpu offers the cores")
        }
    })
}

/// On a thread of its own, which is left behind where the driver hangs.
fn ask_nvml(library: &Path, deadline: Duration) -> Result<nvml::Told, String> {
    let (sender, answer) = mpsc::sync_channel(1);
    let library = library.to_owned();
    let asking = thread::Builder::new().name("nvml".to_owned()).spawn(move || {
        // Nobody listens any more after the deadline.
        let _ = sender.send(nvml::ask(&library).map_err(|error| error.to_string()));
    });
    asking.map_err(|error| format!("NVML was not asked: {error}"))?;
    let silence = format!("NVML did not answer within {} s", deadline.as_secs());
    answer.recv_timeout(deadline).unwrap_or(Err(silence))
}

fn of(told: Result<nvml::Told, String>, root: &Path, choice: Option<&OsStr>) -> Gpus {
    let (all, mut source) = match told {
        Ok(nvml::Told { driver, devices }) => (devices, format!("NVML, driver {driver}")),
        Err(why) => match by_files(root) {
            none if none.is_empty() => (none, why),
            found => (found, format!("the driver's files ({why})")),
        },
    };
    let devices = match choice.map(OsStr::to_string_lossy) {
        None => all,
        Some(list) => {
            source = format!("{source}; {CHOICE}={list}");
            chosen(&all, &list)
        }
    };
    Gpus { devices, source }
}

fn by_files(root: &Path) -> Vec<Gpu> {
    let driver = told_by_driver(&root.join("proc/driver/nvidia/gpus"));
    if driver.is_empty() { nodes(&root.join("dev")) } else { driver }
}

/// A folder for each GPU, in the order of their places on the bus.
fn told_by_driver(folder: &Path) -> Vec<Gpu> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut folders: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    folders.sort();
    let gpu = |folder: &std::path::PathBuf| {
        let text = fs::read_to_string(folder.join("information")).unwrap_or_default();
        let value = |key: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(key));
            line.map(|value| value.trim().to_owned())
        };
        Gpu {
            name: value("Model:").unwrap_or_else(|| "GPU".to_owned()),
            uuid: value("GPU UUID:").unwrap_or_default(),
            memory_bytes: 0,
        }
    };
    folders.iter().map(gpu).collect()
}

/// The NUMA node of each, as far as the driver's files and the kernel tell.
pub(crate) fn numa_nodes(gpus: &Gpus) -> Vec<Option<u32>> {
    numa_nodes_below(Path::new("/"), gpus)
}

fn numa_nodes_below(root: &Path, gpus: &Gpus) -> Vec<Option<u32>> {
    let Ok(entries) = fs::read_dir(root.join("proc/driver/nvidia/gpus")) else {
        return gpus.devices.iter().map(|_| None).collect();
    };
    // A folder for each place on the bus, such as 0000:3b:00.0.
    let node = |place: &Path| {
        let text = fs::read_to_string(place.join("information")).ok()?;
        let uuid = text.lines().find_map(|line| line.strip_prefix("GPU UUID:"))?.trim().to_owned();
        let place = place.file_name()?.to_string_lossy().to_lowercase();
        let file = root.join("sys/bus/pci/devices").join(place).join("numa_node");
        // -1: the machine has none.
        Some((uuid, fs::read_to_string(file).ok()?.trim().parse::<u32>().ok()?))
    };
    let nodes: Vec<(String, u32)> =
        entries.flatten().filter_map(|entry| node(&entry.path())).collect();
    let of = |gpu: &Gpu| {
        let is_it = |(uuid, _): &&(String, u32)| !gpu.uuid.is_empty() && *uuid == gpu.uuid;
        nodes.iter().find(is_it).map(|(_, node)| *node)
    };
    gpus.devices.iter().map(of).collect()
}

/// Containers may have the device files without the driver's folder.
fn nodes(dev: &Path) -> Vec<Gpu> {
    let Ok(entries) = fs::read_dir(dev) else { return Vec::new() };
    let number = |name: &str| name.strip_prefix("nvidia")?.parse::<u32>().ok();
    let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mut numbers: Vec<u32> = names.filter_map(|name| number(&name)).collect();
    numbers.sort_unstable();
    let gpu =
        |number| Gpu { name: format!("/dev/nvidia{number}"), uuid: String::new(), memory_bytes: 0 };
    numbers.into_iter().map(gpu).collect()
}

/// CUDA's rule: entries count up to the first that names no GPU. Numbers are those of the bus, as with
/// `CUDA_DEVICE_ORDER=PCI_BUS_ID`.
fn chosen(all: &[Gpu], list: &str) -> Vec<Gpu> {
    let named = |entry: &str| match entry.parse::<usize>() {
        Ok(number) => all.get(number).cloned(),
        Err(_) if entry.starts_with("GPU-") => by_uuid(all, entry),
        // Part of a GPU, whose own size and name are not asked for.
        Err(_) if entry.starts_with("MIG-") && !all.is_empty() => {
            Some(Gpu { name: "MIG".to_owned(), uuid: entry.to_owned(), memory_bytes: 0 })
        }
        Err(_) => None,
    };
    list.split(',').map(str::trim).map_while(named).collect()
}

/// By the beginning of its UUID, which no other has. Where UUIDs are not known it is believed.
fn by_uuid(all: &[Gpu], entry: &str) -> Option<Gpu> {
    if !all.is_empty() && all.iter().all(|gpu| gpu.uuid.is_empty()) {
        return Some(Gpu { name: "GPU".to_owned(), uuid: entry.to_owned(), memory_bytes: 0 });
    }
    let mut alike = all.iter().filter(|gpu| gpu.uuid.starts_with(entry));
    let first = alike.next()?;
    alike.next().is_none().then(|| first.clone())
}

#[cfg(test)]
mod tests;
