//! The configuration in force, in the shape of the file that says it: for `GET /admin/config`.
//!
//! Every structure is taken apart by name, so that a new setting cannot be left out by accident.

use std::fmt::Display;
use std::path::Path;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::units::show_duration;
use super::{
    AccessFormat, Auth, Balance, ByteSize, Config, Database, Health, Issuer, Jwt, JwtSecret,
    Limits, Listen, Log, NamedFile, Rate, Redis, RouteClass, Secret, Taming, Tier, Timeouts,
    TlsFiles, Upstream, UpstreamKind,
};

/// Everything that is in force, by the names of the file; of a secret only that there is one.
pub fn show(config: &Config) -> Value {
    let Config {
        listen,
        admin,
        admin_hosts,
        metrics,
        state_dir,
        database,
        database_place: _,
        redis,
        auth,
        tiers,
        restrict,
        upstreams,
        balance,
        comments,
        health,
        cors_origins,
        timeouts,
        limits,
        manage_default,
        threads,
        log,
        warnings: _,
    } = config;
    let tiers = tiers.iter().map(|(name, tier)| (name.clone(), show_tier(tier)));
    let mut shown = json!({
        "listen": listen.iter().map(show_listen).collect::<Vec<_>>(),
        "admin": {
            "address": admin.map_or_else(|| "same".to_owned(), |own| own.to_string()),
            "hosts": admin_hosts,
        },
        "metrics": metrics.map_or_else(|| json!("off"), |address| json!({ "address": address })),
        "state_dir": path(state_dir),
        "database": show_database(database),
        "auth": show_auth(auth),
        "tiers": tiers.collect::<Map<_, _>>(),
        "restrict": restrict,
        "cors": { "origins": cors_origins },
        "upstreams": upstreams.iter().map(show_upstream).collect::<Vec<_>>(),
        "balance": show_balance(balance, comments.as_ref()),
        "health": show_health(health),
        "timeouts": show_timeouts(timeouts),
        "limits": show_limits(limits),
        "manage": { "default": manage_default },
        "threads": threads,
        "log": show_log(log),
    });
    put(&mut shown, "redis", redis.as_ref().map_or(Value::Null, |it| json!(hidden(&it.url))));
    if let Some(Redis { url: _, place: _, secret, ca, timeout }) = redis {
        put(&mut shown, "redis_secret", json!(secret.as_ref().map(hidden)));
        put(&mut shown, "redis_ca", json!(ca.as_ref().map(named)));
        put(&mut shown, "redis_timeout", json!(time(timeout)));
    }
    shown
}

fn show_listen(listen: &Listen) -> Value {
    let Listen { address, tls, balancers } = listen;
    let mut shown = json!({ "address": address });
    if let Some(TlsFiles { cert, key, place: _ }) = tls {
        put(&mut shown, "tls", json!({ "cert": path(cert), "key": path(key) }));
    }
    if let Some(networks) = balancers {
        put(&mut shown, "proxy_protocol", texts(networks));
    }
    shown
}

fn show_database(database: &Database) -> Value {
    match database {
        Database::Postgres(url) => json!(format!("postgres://{}", hidden(url))),
        Database::Sqlite(file) => json!(format!("sqlite:{}", path(file))),
    }
}

fn show_auth(auth: &Auth) -> Value {
    let Auth {
        api_key_header,
        key_in_path,
        jwt,
        issuers,
        login_attempts,
        max_stale,
        rotation_grace,
        trusted_proxies,
    } = auth;
    json!({
        "api_keys": { "header": api_key_header.as_str(), "path": key_in_path },
        "jwt": show_jwt(jwt),
        "issuers": issuers.iter().map(show_issuer).collect::<Vec<_>>(),
        "login": { "attempts": login_attempts.to_string() },
        "max_stale": time(max_stale),
        "rotation_grace": time(rotation_grace),
        "trusted_proxies": texts(trusted_proxies),
    })
}

fn show_jwt(jwt: &Jwt) -> Value {
    let Jwt { secret, previous, issuer, audience, ttl, leeway } = jwt;
    json!({
        // null: from the environment, or where `usher init` makes one
        "secret_file": match secret {
            JwtSecret::File(file) => Some(named(file)),
            JwtSecret::Environment(_) | JwtSecret::Made(_) => None,
        },
        "previous_secret_files": previous.iter().map(named).collect::<Vec<_>>(),
        "issuer": issuer,
        "audience": audience,
        "ttl": time(ttl),
        "leeway": time(leeway),
    })
}

fn show_issuer(it: &Issuer) -> Value {
    let Issuer {
        name,
        issuer,
        audience,
        secrets,
        jwks_url,
        jwks_file,
        role_claim,
        roles,
        default_tier,
        max_lifetime,
    } = it;
    let roles = roles.iter().map(|(role, tier)| (role.clone(), json!(&**tier)));
    json!({
        "name": name,
        "issuer": issuer,
        "audience": audience,
        "secrets": secrets.iter().map(|(secret, _)| hidden(secret)).collect::<Vec<_>>(),
        "jwks_url": jwks_url.as_deref().map(without_query),
        "jwks_file": jwks_file.as_ref().map(named),
        "role_claim": (!role_claim.is_empty()).then(|| role_claim.join(".")),
        "roles": roles.collect::<Map<_, _>>(),
        "default_tier": default_tier.as_deref(),
        "max_lifetime": time(max_lifetime),
    })
}

fn show_tier(tier: &Tier) -> Value {
    let Tier {
        allow,
        models,
        concurrency,
        requests,
        reads,
        tokens,
        max_queue_wait,
        weight,
        cloud,
        taming: Taming { num_ctx, runner_options, keep_alive, max_output, unloading: _ },
    } = tier;
    let rate = |rate: &Option<Rate>| rate.map(|rate| rate.to_string());
    let classes = [
        ("read", RouteClass::Read),
        ("inference", RouteClass::Inference),
        ("manage", RouteClass::Manage),
        ("admin", RouteClass::Admin),
    ];
    let allowed = classes.iter().filter(|(_, class)| allow.contains(class));
    json!({
        "allow": allowed.map(|(name, _)| *name).collect::<Vec<_>>(),
        "models": models,
        "concurrency": concurrency,
        "requests": rate(requests),
        "reads": rate(reads),
        "tokens": rate(tokens),
        "max_queue_wait": max_queue_wait.as_ref().map(time),
        "weight": weight,
        "cloud": cloud,
        "num_ctx": num_ctx.to_string(),
        "runner_options": if *runner_options { "allow" } else { "drop" },
        "keep_alive": keep_alive.to_string(),
        "max_output": max_output,
    })
}

fn show_upstream(upstream: &Upstream) -> Value {
    let Upstream { name, place: _, kind, tls, host, port, slots, model_slots, gpu, api_key } =
        upstream;
    let scheme = if *tls { "https" } else { "http" };
    let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
    let mut shown = json!({
        "name": name,
        "url": format!("{scheme}://{host}:{port}"),
        "kind": match kind {
            UpstreamKind::Ollama => "ollama",
            UpstreamKind::OpenAi => "openai",
        },
        "slots": slots,
        "model_slots": model_slots,
    });
    if let Some(gpu) = gpu {
        put(&mut shown, "gpu", json!(gpu));
    }
    if let Some(key) = api_key {
        put(&mut shown, "api_key", json!(hidden(key)));
    }
    shown
}

fn show_balance(balance: &Balance, comments: Option<&Duration>) -> Value {
    let Balance { queue, queue_per_user, max_queue_wait } = balance;
    json!({
        "queue": queue,
        "queue_per_user": queue_per_user,
        "max_queue_wait": time(max_queue_wait),
        "keep_alive_comments": comments.map_or_else(|| json!("off"), |every| json!(time(every))),
    })
}

fn show_health(health: &Health) -> Value {
    let Health { interval, timeout, fall, rise } = health;
    json!({ "interval": time(interval), "timeout": time(timeout), "fall": fall, "rise": rise })
}

fn show_timeouts(timeouts: &Timeouts) -> Value {
    let Timeouts { header, body, connect, first_byte, idle, total, drain } = timeouts;
    json!({
        "header": time(header),
        "body": time(body),
        "connect": time(connect),
        "first_byte": time(first_byte),
        "idle": time(idle),
        "total": time(total),
        "drain": time(drain),
    })
}

fn show_limits(limits: &Limits) -> Value {
    let Limits {
        body,
        body_memory,
        body_memory_per_user,
        headers,
        connections,
        connections_per_ip,
    } = limits;
    json!({
        "body": size(*body),
        "body_memory": size(*body_memory),
        "body_memory_per_user": size(*body_memory_per_user),
        "headers": size(*headers as u64),
        "connections": connections,
        "connections_per_ip": connections_per_ip,
    })
}

fn show_log(log: &Log) -> Value {
    let Log { access, level } = log;
    let access = match access {
        AccessFormat::Json => "json",
        AccessFormat::Off => "off",
        AccessFormat::Text => "text",
    };
    json!({ "access": access, "level": level.as_str().to_ascii_lowercase() })
}

/// What stands in the place of a secret.
fn hidden(secret: &Secret) -> String {
    secret.to_string()
}

/// A URL without what an operator may have put a token into.
fn without_query(url: &str) -> String {
    match url.split_once('?') {
        Some((before, _)) => format!("{before}?[secret]"),
        None => url.to_owned(),
    }
}

fn time(duration: &Duration) -> String {
    show_duration(*duration)
}

fn size(bytes: u64) -> String {
    ByteSize(bytes).to_string()
}

fn named(file: &NamedFile) -> String {
    path(&file.path)
}

fn path(path: &Path) -> String {
    path.display().to_string()
}

fn texts(list: &[impl Display]) -> Value {
    list.iter().map(ToString::to_string).collect()
}

fn put(object: &mut Value, name: &str, value: Value) {
    if let Value::Object(fields) = object {
        fields.insert(name.to_owned(), value);
    }
}

#[cfg(test)]
mod tests {
    use super::without_query;

    #[test]
    fn what_follows_a_question_mark_is_not_shown() {
        let shown = without_query("https://id.example/jwks?token=abc?d");
        assert_eq!(shown, "https://id.example/jwks?[secret]");
        assert_eq!(without_query("https://id.example/jwks"), "https://id.example/jwks");
    }
}
