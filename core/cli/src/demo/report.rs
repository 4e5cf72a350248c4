//! # What the demo shows at its end
//!
//! Job: the table of steps, the map of who talked to whom, and what to try next.
//! May touch: text. Callers: `demo`.

use super::{cluster::Cluster, steps::Step};
use comfy_table::{CellAlignment, Table, presets::UTF8_BORDERS_ONLY};
use mesh_demo::app::Told;
use std::net::IpAddr;

/// The table: step, result, ms.
pub(crate) fn table(steps: &[Step]) -> String {
    let mut table = Table::new();
    table.load_preset(UTF8_BORDERS_ONLY).set_header(["step", "result", "ms"]);
    for step in steps {
        table.add_row([step.name.clone(), step.result.clone(), step.took.as_millis().to_string()]);
    }
    if let Some(column) = table.column_mut(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table.to_string()
}

/// The way of the request, with the identity that each hop proved.
pub(crate) fn map(client: &str, gateway: &str, told: &Told) -> String {
    let caller = told
        .forwarded
        .as_deref()
        .and_then(|f| f.split(';').find_map(|part| part.trim().strip_prefix("for=")))
        .unwrap_or("(not told)");
    let by = told.client_id.as_deref().unwrap_or("(not told)");
    format!(
        "west  {client}\n\
         \x20       as {caller}\n\
         \x20       | mTLS, to {gateway}\n\
         east  linkerd-gateway\n\
         \x20       as {by}\n\
         \x20       | mTLS\n\
         east  {}\n",
        told.pod
    )
}

/// Three commands to go on with.
pub(crate) fn next(exe: &str, west: &Cluster, client: IpAddr) -> String {
    let kubeconfig = west.kubeconfig.display();
    format!(
        "kubectl --kubeconfig {kubeconfig} -n demo get services,endpoints\n\
         curl -x http://{client}:4140 http://echo-east.demo/\n\
         {exe} mc gateways --kubeconfig {kubeconfig}\n"
    )
}
