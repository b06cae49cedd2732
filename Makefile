# Usher. Every target does all that it needs on a machine with git, Rust, make and (for what is
# missing) apt; a second run finds everything in place and is quick.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DEFAULT_GOAL := help

# a TMPDIR that does not exist breaks compilers and databases in ways that do not mention it
export TMPDIR := $(if $(and $(TMPDIR),$(wildcard $(TMPDIR)/.)),$(TMPDIR),/tmp)

CONFIG ?= conf/usher.yaml
DEMO ?=
QUICK ?=
TEST_MINUTES ?= 20
DENY_VERSION := 0.20.2

DESTDIR ?=
PREFIX ?= /usr
BINARY ?= target/release/usher

.PHONY: help run test lint audit bench drills logins schedule live install setup setup-build setup-test install-build

help: ## this list
	@awk -F':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: setup-build ## build, make the first admin key, serve on 127.0.0.1:8080; DEMO=1 brings three simulated instances
	@DEMO="$(DEMO)" USHER_CONFIG="$(if $(DEMO),conf/demo.yaml,$(CONFIG))" bash -euo pipefail -c "$$USHER_RUN"

test: setup-test ## every test, with real SDKs and a real PostgreSQL
	@cargo test --locked --no-run
	timeout --foreground $(TEST_MINUTES)m cargo test --locked

lint: setup-build ## formatting, clippy and documentation, warnings denied
	@for part in rustfmt clippy; do
	  cargo "$${part/rust/}" --version >/dev/null 2>&1 || rustup component add "$$part"
	done
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps --document-private-items

audit: setup-build target/tools/bin/cargo-deny ## licences, bans and sources of every dependency
	@target/tools/bin/cargo-deny --locked check bans licenses sources

drills: target/.setup-bench ## reloads, upgrades, a new certificate and the end, under load; QUICK=1 for a short look
	@ulimit -S -n "$$(ulimit -H -n)"
	cargo bench --locked --bench load -- drills $(if $(QUICK),quick)

logins: setup-build ## what logins tell and cost: their times, and inference beside a flood of them; QUICK=1 for a short look
	@ulimit -S -n "$$(ulimit -H -n)"
	cargo bench --locked --bench load -- logins $(if $(QUICK),quick)

bench: target/.setup-bench ## the hot steps one by one, then the load test beside nginx and HAProxy; QUICK=1 for a short look
	@ulimit -S -n "$$(ulimit -H -n)"
	cargo bench --locked --bench hot -- $(if $(QUICK),--quick)
	cargo bench --locked --bench load -- $(if $(QUICK),quick)

schedule: setup-build ## the scheduler simulated beside least_conn, random and round robin: benches/schedule/RESULTS.md
	@cargo bench --locked --bench schedule

live: target/.setup-bench ## the same scenes in real time, through simulated instances and nginx: benches/schedule/RESULTS.md
	@cargo build --release --locked --example ollama-sim
	cargo bench --locked --bench live $(if $(QUICK),-- quick)

install: $(if $(filter target/release/usher,$(BINARY)),install-build) ## binary, unit and configuration into DESTDIR; PREFIX is /usr
	@install -D -m 755 "$(BINARY)" "$(DESTDIR)$(PREFIX)/bin/usher"
	install -D -m 644 systemd/usher.sysusers "$(DESTDIR)/usr/lib/sysusers.d/usher.conf"
	install -D -m 644 systemd/usher.tmpfiles "$(DESTDIR)/usr/lib/tmpfiles.d/usher.conf"
	install -d "$(DESTDIR)/usr/lib/systemd/system"
	sed 's|/usr/bin/usher|$(PREFIX)/bin/usher|' systemd/usher.service >"$(DESTDIR)/usr/lib/systemd/system/usher.service"
	chmod 644 "$(DESTDIR)/usr/lib/systemd/system/usher.service"
	etc="$(DESTDIR)/etc/usher/usher.yaml"
	if [ -e "$$etc" ]; then
	  echo "$$etc is kept as it is"
	else
	  install -d "$(DESTDIR)/etc/usher"
	  sed 's|^state_dir: ../state  *#.*|state_dir: /var/lib/usher         # the SQLite file and generated secrets|' conf/usher.yaml >"$$etc"
	  chmod 640 "$$etc"
	fi

install-build: setup-build
	@cargo build --release --locked --bin usher

setup: setup-build setup-test ## install what building and testing need, and nothing else

setup-build: target/.setup-build
setup-test: target/.setup-test

target/.setup-build: Makefile
	@wanted=()
	command -v cc >/dev/null || wanted+=(gcc libc6-dev)
	command -v cmake >/dev/null || wanted+=(cmake)
	bash -euo pipefail -c "$$USHER_PACKAGES" install "$${wanted[@]}"
	mkdir -p target && touch $@

target/.setup-test: Makefile tests/it/sdk/requirements.txt | target/.setup-build
	@wanted=()
	compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null || command -v initdb >/dev/null || wanted+=(postgresql)
	command -v redis-server >/dev/null || wanted+=(redis-server)
	command -v systemd-analyze >/dev/null || wanted+=(systemd)
	command -v curl >/dev/null || wanted+=(curl)
	command -v jq >/dev/null || wanted+=(jq)
	command -v openssl >/dev/null || wanted+=(openssl)
	command -v fail2ban-regex >/dev/null || wanted+=(fail2ban)
	command -v nghttp >/dev/null && command -v h2load >/dev/null || wanted+=(nghttp2-client)
	python3 -c 'import ensurepip, venv' 2>/dev/null || wanted+=(python3-venv)
	bash -euo pipefail -c "$$USHER_PACKAGES" install "$${wanted[@]}"
	.venv/bin/python -c 'import pip' 2>/dev/null || python3 -m venv --clear .venv
	.venv/bin/python -m pip install --quiet --disable-pip-version-check -r tests/it/sdk/requirements.txt
	touch $@

target/.setup-bench: Makefile | target/.setup-build
	@wanted=()
	find_server() { PATH="$$PATH:/usr/sbin" command -v "$$1" >/dev/null; }
	find_server nginx || wanted+=(nginx-light)
	find_server haproxy || wanted+=(haproxy)
	find_server valgrind || wanted+=(valgrind)
	bash -euo pipefail -c "$$USHER_PACKAGES" install "$${wanted[@]}"
	touch $@

target/tools/bin/cargo-deny:
	@echo "building cargo-deny $(DENY_VERSION) into target/tools: some minutes, once"
	cargo install --locked --quiet --version $(DENY_VERSION) --root target/tools cargo-deny

# Installs the packages given as arguments, if any. Debian's packages start and enable their
# services: a policy file that lives as long as the installation forbids the first, and what was
# not enabled before is disabled again after.
define USHER_PACKAGES
[ $$# -gt 0 ] || exit 0
if ! command -v apt-get >/dev/null; then
  echo "Missing: $$*. There is no apt here: install them in this system's own way, then repeat." >&2
  exit 1
fi
as_root=()
if [ "$$(id -u)" != 0 ]; then
  if ! command -v sudo >/dev/null; then
    echo "Missing: $$*. As root: apt-get install --no-install-recommends $$*" >&2
    exit 1
  fi
  as_root=(sudo)
fi
echo "installing $$*"
"$${as_root[@]}" bash -euo pipefail -c '
  export DEBIAN_FRONTEND=noninteractive
  services=(postgresql redis-server nginx haproxy fail2ban)
  found=()
  for service in "$${services[@]}"; do
    systemctl cat "$$service" >/dev/null 2>&1 && found+=("$$service")
  done
  policy=/usr/sbin/policy-rc.d
  if [ ! -e "$$policy" ]; then
    trap "rm -f $$policy" EXIT
    printf "#!/bin/sh\nexit 101\n" >"$$policy"
    chmod +x "$$policy"
  fi
  log=$$(mktemp)
  if ! { apt-get -q update && apt-get -q -y install --no-install-recommends "$$@"; } >"$$log" 2>&1; then
    cat "$$log" >&2
    exit 1
  fi
  rm "$$log"
  command -v systemctl >/dev/null || exit 0
  for service in "$${services[@]}"; do
    case " $${found[*]-} " in
      *" $$service "*) ;;
      *) systemctl disable --quiet --now "$$service" 2>/dev/null || true ;;
    esac
  done
' install "$$@"
endef
export USHER_PACKAGES

# Serves until it is interrupted; whatever it started ends with it.
define USHER_RUN
taken() { (exec 3<>"/dev/tcp/127.0.0.1/$$1") 2>/dev/null; }
# said before minutes of building rather than after; any other address is checked by usher itself
if ! grep -q '^listen:' "$$USHER_CONFIG" || grep -q '^[^#]*127\.0\.0\.1:8080' "$$USHER_CONFIG"; then
  if taken 8080; then
    echo "Port 8080 is in use: stop what listens there, or change listen in $$USHER_CONFIG." >&2
    exit 1
  fi
fi
children=()
trap 'kill "$${children[@]}" 2>/dev/null || true; wait' EXIT
trap 'exit 0' INT TERM HUP
if [ -n "$$DEMO" ]; then
  for port in 11434 11435 11436; do
    if taken "$$port"; then
      echo "Port $$port is in use, and the demonstration needs it. If it is Ollama: make run" >&2
      exit 1
    fi
  done
  cargo build --release --locked --bin usher --example ollama-sim
  for port in 11434 11435 11436; do
    target/release/examples/ollama-sim --listen "127.0.0.1:$$port" --slots 4 >/dev/null &
    children+=($$!)
  done
else
  cargo build --release --locked --bin usher
fi
target/release/usher init -c "$$USHER_CONFIG"
target/release/usher serve -c "$$USHER_CONFIG" &
children+=($$!)
wait $$!
endef
export USHER_RUN
