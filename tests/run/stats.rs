//! `ampoule stats`.

use crate::needs_sandboxes;
use crate::support::Ampoule;

const MIB: u64 = 1 << 20;

#[test]
fn a_running_containers_cost_is_told() {
    needs_sandboxes!();
    let ampoule = Ampoule::new();
    let spin = ["run", "-d", "--name", "busy", "busybox", "sh", "-c", "while :; do :; done"];
    let id = ampoule.ok(&spin).trim().to_owned();
    ampoule.ok(&["run", "-d", "--name", "ended", "busybox", "sleep", "1000"]);
    ampoule.ok(&["stop", "-t", "0", "ended"]);

    let told = ampoule.ok(&["stats", "--no-stream", "--format", "json"]);
    let row: serde_json::Value = serde_json::from_str(&told).unwrap();
    assert_eq!((&row["Name"], &row["ID"]), (&"busy".into(), &id[..12].into()));
    let percent =
        |key: &str| row[key].as_str().unwrap().strip_suffix('%').unwrap().parse::<f64>().unwrap();
    assert!((5.0..250.0).contains(&percent("CPUPerc")), "{told}");
    assert!((1.0..100.0).contains(&percent("MemPerc")), "{told}");
    assert!(row["PIDs"].as_str().unwrap().parse::<u32>().unwrap() >= 4, "{told}");
    assert!(row["MemUsage"].as_str().unwrap().ends_with("MiB / 512MiB"), "{told}");
    let pss = |part: &str| row[part]["Pss"].as_u64().unwrap();
    assert_eq!(row["GuestSize"], 512 * MIB);
    // Shared pages count in part: the more sandboxes of its template there are, the less.
    assert!((4 * MIB..256 * MIB).contains(&pss("Guest")), "{told}");
    assert!((1..16 * MIB).contains(&pss("Monitor")), "{told}");
    assert!((1..16 * MIB).contains(&pss("Keeper")), "{told}");
    assert_eq!(row["Pss"], pss("Guest") + pss("Monitor") + pss("Keeper"));

    let one = ampoule.ok(&["stats", "--no-stream", "busy"]);
    assert!(one.starts_with("CONTAINER ID   NAME") && one.contains(&id[..12]), "{one}");
    assert!(!one.contains("ended"), "{one}");
    let all = ampoule.ok(&["stats", "-a", "--no-stream"]);
    assert!(all.contains("busy") && all.contains("ended") && all.contains("0B / 0B"), "{all}");
    ampoule.ok(&["rm", "-f", "busy", "ended"]);
}

#[test]
fn an_unknown_containers_cost_is_not_known() {
    let ampoule = Ampoule::new();
    ampoule.output(&["stats", "--no-stream", "nobody"]).fails(125, &["no such container: nobody"]);
}
