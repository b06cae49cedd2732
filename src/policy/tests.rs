use std::sync::Arc;

use http::Method;

use super::*;
use crate::auth::{self, Identity, Key, User};
use crate::config::RouteClass::{self, Admin, Inference, Manage, Read};
use crate::route;

const WAIT: Duration = Duration::from_secs(120);

/// The configuration of the tests: tiers and restrictions.
#[derive(Default)]
struct House {
    tiers: BTreeMap<String, Tier>,
    restrict: BTreeMap<String, BTreeSet<String>>,
}

impl House {
    fn new() -> Self {
        let mut house = Self::default();
        house.add("free", &[Read, Inference], 2);
        house.add("premium", &[Read, Inference], 8);
        house.add("admin", &[Read, Inference, Manage, Admin], 32);
        house
    }

    fn add(&mut self, name: &str, allow: &[RouteClass], concurrency: u32) -> &mut Tier {
        let tier = Tier {
            allow: allow.iter().copied().collect(),
            models: None,
            concurrency,
            requests: None,
            reads: None,
            tokens: None,
            max_queue_wait: None,
            weight: 1,
            cloud: false,
            taming: Taming::by_default(allow.contains(&Manage)),
        };
        self.tiers.entry(name.to_owned()).insert_entry(tier).into_mut()
    }

    fn permit(
        &self,
        caller: &Principal,
        method: &Method,
        path: &str,
    ) -> Result<RoutePermit, Denied> {
        let route = route::find(method, path.as_bytes()).unwrap().route;
        let rules = Rules { tiers: &self.tiers, restrict: &self.restrict, max_queue_wait: WAIT };
        authorise_route(caller, route, &rules)
    }

    fn chat(&self, caller: &Principal) -> RoutePermit {
        self.permit(caller, &Method::POST, "/api/chat").unwrap()
    }
}

fn caller(user_tier: &str, key_tier: Option<&str>) -> Principal {
    with_key(user_tier, key_tier, |_| ())
}

fn with_key(user_tier: &str, key_tier: Option<&str>, change: fn(&mut Key)) -> Principal {
    let mut key = Key {
        id: 1,
        public_id: None,
        tier: key_tier.map(str::to_owned),
        models: None,
        concurrency: None,
        requests: None,
        tokens: None,
        delegating: false,
        expires_at: None,
        revoked_at: None,
    };
    change(&mut key);
    let identity = Identity { user: user(user_tier), key: Some(key) };
    Principal { identity: Arc::new(identity), method: auth::Method::ApiKey, token: None }
}

fn user(tier: &str) -> User {
    User {
        id: 1,
        username: "me".to_owned(),
        email: None,
        issuer: None,
        subject: None,
        tier: tier.to_owned(),
        tier_given: false,
        disabled: false,
        token_version: 0,
    }
}

/// Somebody with a token that another issuer made, whose mapping gives `mapped`.
fn bearer(user_tier: &str, given: bool, mapped: Option<&str>) -> Principal {
    let user = User { tier_given: given, ..user(user_tier) };
    let token = auth::Token {
        id: "t".into(),
        expires_at: jiff::Timestamp::MAX,
        tier: mapped.map(Into::into),
    };
    let identity = Arc::new(Identity { user, key: None });
    Principal { identity, method: auth::Method::Jwt, token: Some(token) }
}

fn model(name: &str) -> ModelName {
    ModelName::parse(name).unwrap()
}

fn list(patterns: &[&str]) -> Option<Vec<String>> {
    Some(patterns.iter().map(|pattern| (*pattern).to_owned()).collect())
}

#[test]
fn both_tiers_must_allow_the_class_of_the_route() {
    let house = House::new();
    for (user, key, path, denied) in [
        ("free", None, "/api/chat", None),
        ("free", None, "/api/show", None),
        ("free", None, "/api/pull", Some("free")),
        ("admin", None, "/api/pull", None),
        ("admin", Some("admin"), "/api/pull", None),
        ("admin", Some("free"), "/api/pull", Some("free")),
        ("free", Some("admin"), "/api/pull", Some("free")),
        ("premium", Some("free"), "/api/pull", Some("premium")),
        ("gone", None, "/api/chat", Some("gone")),
        ("admin", Some("gone"), "/api/chat", Some("gone")),
        ("admin", Some(""), "/api/chat", Some("")),
    ] {
        let role = match house.permit(&caller(user, key), &Method::POST, path) {
            Ok(_) => None,
            Err(Denied::Route { role }) => Some(role),
            Err(other) => panic!("{other}"),
        };
        assert_eq!(role.as_deref(), denied, "{user} {key:?} {path}");
    }
}

#[test]
fn a_token_has_the_tier_of_its_user_or_of_its_issuers_mapping() {
    let house = House::new();
    for (caller, path, denied) in [
        (bearer("free", false, None), "/api/chat", None),
        (bearer("free", false, None), "/api/pull", Some("free")),
        (bearer("admin", false, None), "/api/pull", None),
        (bearer("free", false, Some("admin")), "/api/pull", None),
        (bearer("admin", false, Some("free")), "/api/pull", Some("free")),
        (bearer("premium", true, Some("admin")), "/api/pull", Some("premium")),
        (bearer("admin", true, Some("free")), "/api/pull", None),
        (bearer("free", false, Some("gone")), "/api/chat", Some("gone")),
    ] {
        let role = match house.permit(&caller, &Method::POST, path) {
            Ok(permit) => {
                assert!(permit.may_see(&model("anything")));
                assert!(permit.concurrency() < u32::MAX, "the tier's holds");
                None
            }
            Err(Denied::Route { role }) => Some(role),
            Err(other) => panic!("{other}"),
        };
        assert_eq!(role.as_deref(), denied, "{caller:?} {path}");
    }
}

#[test]
fn a_restricted_route_is_for_the_listed_tiers_alone() {
    let mut house = House::new();
    let only = ["premium".to_owned(), "admin".to_owned()];
    house.restrict.insert("/v1/audio/transcriptions".to_owned(), only.into());
    house.restrict.insert("/api/pull".to_owned(), ["premium".to_owned()].into());
    let may = |user, key, path| house.permit(&caller(user, key), &Method::POST, path).is_ok();
    assert!(may("premium", None, "/v1/audio/transcriptions"));
    assert!(!may("free", None, "/v1/audio/transcriptions"));
    assert!(!may("premium", Some("free"), "/v1/audio/transcriptions"));
    assert!(!may("free", Some("premium"), "/v1/audio/transcriptions"));
    assert!(may("free", None, "/v1/embeddings"), "another route");
    assert!(!may("admin", None, "/api/pull"), "not listed");
    assert!(!may("premium", None, "/api/pull"), "listed, but not in the class");
}

#[test]
fn a_restriction_holds_for_every_parameter_of_a_route() {
    let mut house = House::new();
    house.restrict.insert("/v1/models/{id}".to_owned(), ["admin".to_owned()].into());
    let free = caller("free", None);
    assert!(house.permit(&free, &Method::GET, "/v1/models/x").is_err());
    assert!(house.permit(&free, &Method::GET, "/v1/models").is_ok());
}

#[test]
fn a_model_must_be_on_the_list_of_the_user_of_the_key_and_of_its_tier() {
    let mut house = House::new();
    house.tiers.get_mut("free").unwrap().models = list(&["llama3*", "qwen3:8b"]);
    house.tiers.get_mut("premium").unwrap().models = list(&["*:8b"]);
    let keyed = |key: &mut Key| key.models = list(&["llama3*"]);
    for (caller, name, allowed) in [
        (caller("admin", None), "anything", true),
        (caller("free", None), "LLAMA3.2", true),
        (caller("free", None), "library/qwen3:8B", true),
        (caller("free", None), "qwen3", false),
        (caller("admin", Some("free")), "qwen3", false),
        (caller("free", Some("admin")), "qwen3", false),
        (caller("free", Some("premium")), "qwen3:8b", true),
        (caller("free", Some("premium")), "llama3:8b", true),
        (caller("free", Some("premium")), "llama3", false),
        (with_key("free", None, keyed), "llama3", true),
        (with_key("free", None, keyed), "qwen3:8b", false),
        (with_key("admin", None, keyed), "qwen3:8b", false),
        (with_key("admin", None, |key| key.models = Some(Vec::new())), "llama3", false),
    ] {
        let permit = house.chat(&caller);
        assert_eq!(permit.authorise_model(&model(name)).is_ok(), allowed, "{caller:?} {name}");
        assert_eq!(permit.may_see(&model(name)), allowed, "{caller:?} {name}");
    }
}

#[test]
fn nothing_leaves_the_box_unless_every_tier_lets_it() {
    let mut house = House::new();
    house.add("cloudy", &[Inference], 1).cloud = true;
    for (user, key, allowed) in [
        ("admin", None, false),
        ("cloudy", None, true),
        ("cloudy", Some("cloudy"), true),
        ("cloudy", Some("free"), false),
        ("free", Some("cloudy"), false),
    ] {
        let permit = house.chat(&caller(user, key));
        assert_eq!(permit.authorise_model(&model("x:20b-cloud")).is_ok(), allowed);
        assert_eq!(permit.may_see(&model("x:cloud")), allowed);
        assert_eq!(permit.authorise_web_search().is_ok(), allowed, "{user} {key:?}");
        assert!(permit.may_see(&model("x")));
    }
}

#[test]
fn the_smallest_of_all_bounds_holds() {
    let mut house = House::new();
    house.tiers.get_mut("free").unwrap().max_queue_wait = Some(WAIT / 2);
    house.add("patient", &[Inference], 4).max_queue_wait = Some(WAIT * 2);
    let one = |key: &mut Key| key.concurrency = Some(1);
    let many = |key: &mut Key| key.concurrency = Some(100);
    for (caller, seats, through_key, wait) in [
        (caller("admin", None), 32, u32::MAX, WAIT),
        (caller("admin", Some("free")), 32, 2, WAIT / 2),
        (caller("free", Some("admin")), 2, 32, WAIT / 2),
        (caller("patient", None), 4, u32::MAX, WAIT * 2),
        (caller("patient", Some("premium")), 4, 8, WAIT),
        (with_key("admin", Some("premium"), one), 32, 1, WAIT),
        (with_key("admin", Some("premium"), many), 32, 8, WAIT),
    ] {
        let permit = house.chat(&caller);
        let found = (permit.concurrency(), permit.key_concurrency(), permit.max_queue_wait());
        assert_eq!(found, (seats, through_key, wait));
    }
}

#[test]
fn the_smallest_weight_of_all_tiers_holds() {
    let mut house = House::new();
    house.add("lab", &[Inference], 1).weight = 4;
    house.add("heavy", &[Inference], 1).weight = 9;
    for (user, key, weight) in [
        ("heavy", None, 9),
        ("heavy", Some("lab"), 4),
        ("lab", Some("heavy"), 4),
        ("heavy", Some("free"), 1),
    ] {
        assert_eq!(house.chat(&caller(user, key)).weight(), weight, "{user} {key:?}");
    }
}

#[test]
fn what_may_be_done_to_a_model_is_what_every_tier_allows() {
    let mut house = House::new();
    house.add("lab", &[Inference, Manage], 1).taming.max_output = Some(100);
    for (caller, max_output, runner_options, unloading) in [
        (caller("admin", None), None, true, true),
        (caller("admin", Some("free")), None, false, false),
        (caller("free", Some("admin")), None, false, false),
        (caller("lab", None), Some(100), true, true),
        (caller("admin", Some("lab")), Some(100), true, true),
        (caller("lab", Some("premium")), Some(100), false, false),
    ] {
        let permit = house.chat(&caller);
        let taming = permit.taming();
        assert_eq!((taming.max_output, taming.runner_options), (max_output, runner_options));
        assert_eq!(permit.authorise_unloading().is_ok(), unloading, "{caller:?}");
    }
}

#[test]
fn refusals_say_what_the_contract_says() {
    let house = House::new();
    let keyed = with_key("free", None, |key| key.models = list(&["y"]));
    let permit = house.chat(&keyed);
    for (denied, text) in [
        (
            house.permit(&keyed, &Method::POST, "/api/pull").unwrap_err(),
            "Role 'free' not authorized for this endpoint",
        ),
        (permit.authorise_model(&model("X")).unwrap_err(), "Model 'X' is not allowed for this key"),
        (
            permit.authorise_model(&model("y:cloud")).unwrap_err(),
            "Model 'y:cloud' runs outside this server, which is not allowed for this key",
        ),
        (
            permit.authorise_web_search().unwrap_err(),
            "Web search runs outside this server, which is not allowed for this key",
        ),
    ] {
        assert_eq!(denied.to_string(), text);
    }
}
