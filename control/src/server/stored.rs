//! Interfaces that are stored but not live: the engine does not know them, the desired state does.

use control_api::v1::{self, object::Spec};
use model::{Kind, ObjectKey};

use crate::watch::View;

/// Adds the stored interfaces that are missing in what the engine says, with the reason; sorts by name.
pub(super) fn add_stored(states: &mut Vec<v1::InterfaceState>, view: &View) {
    let mut missing = Vec::new();
    for (key, object) in &view.objects {
        if let Some(Spec::Interface(spec)) = &object.spec
            && key.kind == Kind::Interface
            && !states.iter().any(|state| state.name == key.name)
        {
            missing.push(state(key, spec, view));
        }
    }
    states.extend(missing);
    states.sort_by(|a, b| a.name.cmp(&b.name));
}

fn state(key: &ObjectKey, spec: &v1::InterfaceSpec, view: &View) -> v1::InterfaceState {
    let reason = view.not_live.iter().find(|error| {
        let object = error.object.as_ref();
        object.is_some_and(|object| object.kind == key.kind.as_str() && object.name == key.name)
    });
    // One that was stored this moment may be live before the engine was asked again.
    let fault = reason.map_or_else(
        || "not live yet".to_owned(),
        |error| format!("not live: {}", error.message),
    );
    let addresses = view
        .objects
        .values()
        .filter_map(|object| match &object.spec {
            Some(Spec::Address(address)) if address.interface == key.name => {
                Some(address.address.clone())
            }
            _ => None,
        });
    let mut state = v1::InterfaceState {
        name: key.name.clone(),
        admin_up: spec.admin_up.unwrap_or(true),
        mtu: spec.mtu.unwrap_or_default(),
        mac_address: spec.mac_address.clone().unwrap_or_default(),
        vrf: spec
            .vrf
            .clone()
            .unwrap_or_else(|| model::VrfName::DEFAULT.to_owned()),
        addresses: addresses.collect(),
        fault,
        ..v1::InterfaceState::default()
    };
    match (&spec.af_packet, &spec.vlan) {
        (Some(port), _) => {
            state.r#type = "afPacket".into();
            state.device.clone_from(&port.device);
        }
        (None, Some(vlan)) => {
            state.r#type = "vlan".into();
            state.device.clone_from(&vlan.parent);
            state.vlan_ids = vlan.outer_id.into_iter().chain([vlan.id]).collect();
        }
        (None, None) => {}
    }
    state
}
