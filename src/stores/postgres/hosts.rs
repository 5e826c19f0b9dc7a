//! The hosts of a URL, each as a configuration of its own.

use tokio_postgres::Config;
use tokio_postgres::config::{Host, LoadBalanceHosts};

/// Returns a configuration for each host, in their order. The client itself tries all hosts of one
/// configuration too, but a host that accepts a connection and is then silent takes all its time.
///
/// Hosts in random order (`load_balance_hosts`), and Unix sockets, stay together.
pub(super) fn one_by_one(config: &Config) -> Vec<Config> {
    let names = names(config);
    let addresses = config.get_hostaddrs();
    let number = names.len().max(addresses.len());
    let has_others = names.len() < config.get_hosts().len();
    let is_random = config.get_load_balance_hosts() == LoadBalanceHosts::Random;
    if number < 2 || has_others || is_random {
        return vec![config.clone()];
    }
    let of_host = |index: usize| {
        let mut one = without_hosts(config);
        if let Some(name) = names.get(index) {
            one.host(*name);
        }
        if let Some(address) = addresses.get(index) {
            one.hostaddr(*address);
        }
        let ports = config.get_ports();
        if let Some(port) = ports.get(index).or(ports.first()) {
            one.port(*port);
        }
        one
    };
    (0..number).map(of_host).collect()
}

/// Returns the hosts that have a name or an address.
fn names(config: &Config) -> Vec<&str> {
    #[allow(unreachable_patterns, reason = "on Windows there is no other variant")]
    fn name(host: &Host) -> Option<&str> {
        match host {
            Host::Tcp(name) => Some(name.as_str()),
            _ => None,
        }
    }
    config.get_hosts().iter().filter_map(name).collect()
}

fn without_hosts(config: &Config) -> Config {
    let mut one = Config::new();
    one.ssl_mode(config.get_ssl_mode())
        .ssl_negotiation(config.get_ssl_negotiation())
        .keepalives(config.get_keepalives())
        .keepalives_idle(config.get_keepalives_idle())
        .target_session_attrs(config.get_target_session_attrs())
        .channel_binding(config.get_channel_binding());
    config.get_user().map(|user| one.user(user));
    config.get_password().map(|password| one.password(password));
    config.get_dbname().map(|name| one.dbname(name));
    config.get_options().map(|options| one.options(options));
    config.get_application_name().map(|name| one.application_name(name));
    config.get_connect_timeout().map(|limit| one.connect_timeout(*limit));
    config.get_tcp_user_timeout().map(|limit| one.tcp_user_timeout(*limit));
    config.get_keepalives_interval().map(|interval| one.keepalives_interval(interval));
    config.get_keepalives_retries().map(|retries| one.keepalives_retries(retries));
    one
}
