//! The plugins of one VM: which of them keeps what another owes that is to go.
//!
//! Its one rule: an heir has the same store, reached in the same way, and does not drain itself.
//! It does not know what is owed.

use std::cell::RefCell;
use std::rc::{Rc, Weak};

use crate::shell::plugin::Plugin;
use crate::worker::Host;

thread_local! {
    /// By age. What drains may be gone at any time, so none of them is kept by standing here.
    static PLUGINS: RefCell<Vec<Weak<RefCell<Plugin>>>> = const { RefCell::new(Vec::new()) };
}

/// Notes a plugin that has been configured.
pub fn note(plugin: &Rc<RefCell<Plugin>>) {
    PLUGINS.with_borrow_mut(|plugins| {
        plugins.retain(|plugin| plugin.strong_count() > 0);
        plugins.push(Rc::downgrade(plugin));
    });
}

/// Has the youngest heir of this plugin keep what the plugin owes. Where there is none the plugin keeps it.
pub fn hand_over(plugin: &mut Plugin) {
    // The plugin itself is in use, and so is one in whose callback Envoy ends this one; that one is found a tick later.
    let is_heir = |other: &Rc<RefCell<Plugin>>| {
        other.try_borrow().is_ok_and(|other| other.has_store_of(plugin) && !other.worker.is_draining())
    };
    let heir = PLUGINS.with_borrow(|plugins| plugins.iter().rev().filter_map(Weak::upgrade).find(is_heir));
    if let Some(heir) = heir
        && let Ok(mut heir) = heir.try_borrow_mut()
    {
        heir.worker.inherit(plugin.worker.hand_over(), plugin.envoy.now_ms());
    }
}
