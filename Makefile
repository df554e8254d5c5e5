# Developer entry points. Everything a fresh Debian machine lacks is installed by the first target that needs it.
SHELL := /bin/bash
export PATH := $(CURDIR)/node_modules/.bin:/usr/sbin:/sbin:$(PATH)
PREFIX ?= /usr/local
# bundles and homes of demo and tests; nothing outside of it is written
DEV := $(CURDIR)/.dev

UNIT_TESTS = $(filter-out test/host/%,$(filter-out $(HOST_TESTS) $(RIG_TESTS) $(PACKAGE_TESTS),$(sort $(wildcard test/*.test.ts test/*/*.test.ts test/*/*/*.test.ts))))
# a host with a working KVM is made for them, which takes long, and they may meet a fault of its emulated processor
RIG_TESTS = test/proof/host/rig.test.ts
# a machine with systemd is made for them, and VMs run in it
PACKAGE_TESTS = test/package/host/installed.test.ts
HOST_TESTS = $(filter-out $(RIG_TESTS) $(PACKAGE_TESTS),$(wildcard test/host/*.test.ts test/*/host/*.test.ts))
PROOF_TESTS = $(HOST_TESTS)

# program:package pairs, and what Node is linked against; nodejs and npm only when there is no npm at all
NEEDED := qemu-system-x86_64:qemu-system-x86 mmdebstrap:mmdebstrap nft:nftables ip:iproute2 mke2fs:e2fsprogs \
  ssh:openssh-client ssh-keygen:openssh-client depmod:kmod zstd:zstd xz:xz-utils lz4:lz4 \
  newuidmap:uidmap sudo:sudo ps:procps shellcheck:shellcheck git:git npm:npm libatomic.so.1:libatomic1 \
  musl-gcc:musl-tools
TEST_NEEDED := dig:bind9-dnsutils mkfs.xfs:xfsprogs debugfs:e2fsprogs fsverity:fsverity zsh:zsh fish:fish busybox:busybox mandoc:mandoc skopeo:skopeo sfdisk:fdisk qemu-img:qemu-utils mkfs.btrfs:btrfs-progs docker-registry:docker-registry htpasswd:apache2-utils apparmor_parser:apparmor gpg:gnupg umoci:umoci getfattr:attr openssl:openssl cpio:cpio man:man-db groff:groff-base rpmbuild:rpm dpkg-parsechangelog:dpkg-dev gcc:gcc systemd-socket-activate:systemd

# each file loads the same modules, and waits more than it computes
run_unit_tests = NODE_COMPILE_CACHE=$(DEV)/compile-cache node scripts/run-tests.ts --at-once 4 --limit 120 --report $(DEV)/unit-tests.txt $(UNIT_TESTS)
run_host_tests = BANGER_TEST_BUNDLE=$(DEV)/bundle node scripts/run-tests.ts --at-once 4 --report $(DEV)/host-tests.txt $(RIG_TESTS) $(HOST_TESTS)

# in every guest: static, small, and begun before anything else there
AGENT_SOURCES := $(wildcard agent/*.c agent/*.h)
AGENT_CFLAGS := -std=c11 -D_GNU_SOURCE -Os -Wall -Wextra -Werror -ffunction-sections -fdata-sections

# what the executable is made of
SOURCES := $(shell find src bin fcqemu helpers scripts -type f) package.json package-lock.json tsconfig.json

.PHONY: demo test unit host-test proof proof-short proof-boots chaos check format build install uninstall deb deb-check piuparts package-test release clean deps host-deps test-deps
.DEFAULT_GOAL := build
.DELETE_ON_ERROR:

demo: build ## the main job on real input: from nothing to a shell in a named VM, and away again
	node scripts/demo.ts $(DEV)

test: ## everything: unit tests in a minute or two, then host tests that boot real VMs
	+$(MAKE) --no-print-directory --jobs 3 --output-sync=target test-deps build check
	mkdir -p $(DEV)
	node scripts/test-bundle.ts --templates $(DEV) > $(DEV)/bundle.log 2>&1 & bundle=$$!; \
	  $(run_unit_tests) || { kill $$bundle; exit 1; }; \
	  wait $$bundle || { cat $(DEV)/bundle.log; exit 1; }
	$(run_host_tests)

unit: node_modules ## unit tests alone
	mkdir -p $(DEV)
	$(run_unit_tests)

host-test: test-deps build ## host tests alone
	node scripts/test-bundle.ts --templates $(DEV)
	$(run_host_tests)

proof: test-deps build ## host tests in a VM with a working KVM: TESTS, RIGS, FIRECRACKER_BIN, JAILER_BIN; see docs/proof.md
	node scripts/test-bundle.ts $(DEV)
	BANGER_TEST_BUNDLE=$(DEV)/bundle node test/proof/main.ts $(DEV) $(or $(TESTS),$(PROOF_TESTS))

proof-short: test-deps build ## the life of a VM under a working KVM, in a VM that is made for it; FIRECRACKER_BIN, JAILER_BIN
	node scripts/test-bundle.ts $(DEV)
	BANGER_TEST_BUNDLE=$(DEV)/bundle node scripts/run-tests.ts --limit 1800 --report $(DEV)/proof-tests.txt $(RIG_TESTS)

proof-boots: test-deps build ## how often the emulated processor's fault is met: BOOTS guests in a VM with a working KVM; FIRECRACKER_BIN
	node scripts/test-bundle.ts $(DEV)
	BANGER_TEST_BUNDLE=$(DEV)/bundle node test/proof/main.ts $(DEV) --boots $(or $(BOOTS),20)

chaos: test-deps build ## random work and accidents for a long time: CHAOS_SEED, CHAOS_RUNS, CHAOS_COMMANDS, CHAOS_SHRINK_MINUTES
	node scripts/test-bundle.ts $(DEV)
	BANGER_TEST_BUNDLE=$(DEV)/bundle CHAOS_DIRECTORY=$(DEV) node test/chaos/main.ts

check: node_modules ## types, lint, format
	tsc
	biome check --error-on-warnings .

format: node_modules
	biome check --write .

build: host-deps node_modules dist/banger dist/fcqemu-vsock ## dist/banger: command line and daemon, and fcqemu under that name

dist/banger: $(SOURCES) dist/banger-agent | node_modules
	node scripts/build.ts

dist/banger-agent: $(AGENT_SOURCES) package.json | host-deps
	mkdir -p dist
	version=$$(sed -n 's/^ *"version": *"\([^"]*\)".*/\1/p' package.json) && \
	  musl-gcc $(AGENT_CFLAGS) -DVERSION="\"$$version\"" -static -s -Wl,--gc-sections -o $@ $(filter %.c,$^)
	cp /usr/share/doc/musl-dev/copyright dist/LICENSE.musl
	@size=$$(stat -c %s $@); [ "$$size" -le 204800 ] || { echo "$@ has $$size bytes, and every guest holds it in memory" >&2; rm $@; exit 1; }

# for guests: static, so that it runs in any of them
dist/fcqemu-vsock: fcqemu/guest/vsock.c | host-deps
	mkdir -p dist
	musl-gcc -std=c11 -Os -Wall -Wextra -Werror -static -s -o $@ $<

install: build ## the content of the package below PREFIX: programs, units, completions, manual pages
	node scripts/package/main.ts install --prefix "$(PREFIX)" --destdir "$(or $(DESTDIR),/)"

uninstall: build ## takes away what `make install` with the same PREFIX put there
	node scripts/package/main.ts uninstall --prefix "$(PREFIX)" --destdir "$(or $(DESTDIR),/)"

deb: build ## dist/banger_VERSION_ARCH.deb
	node scripts/package/main.ts deb

# programs for `make deb-check`: these packages alone
DEB_CHECK_NEEDED := lintian:lintian mandoc:mandoc systemd-analyze:systemd shellcheck:shellcheck ssh:openssh-client
DEB = $(lastword $(sort $(wildcard dist/banger_*.deb)))

deb-check: deb ## the package by lintian, its units, pages and scripts by their own programs, made twice
	$(call install_missing,$(DEB_CHECK_NEEDED))
	lintian --fail-on error,warning $(DEB)
	node --test --test-reporter=dot test/package/content.test.ts test/package/manual.test.ts
	node scripts/package/main.ts deb --output dist/again && cmp $(DEB) dist/again/$(notdir $(DEB)) && rm -r dist/again

# a Debian of essential packages and apt, kept; PIUPARTS_SUITE names another one
PIUPARTS_SUITE ?= bookworm
PIUPARTS_BASE = $(DEV)/piuparts-$(PIUPARTS_SUITE).tar.gz

piuparts: deb ## the package installed, purged and installed again in a bare Debian by piuparts, which looks for what is left over
	$(call install_missing,piuparts:piuparts mmdebstrap:mmdebstrap adequate:adequate)
	mkdir -p $(DEV)
	[ -e $(PIUPARTS_BASE) ] || mmdebstrap --mode=root --variant=minbase $(PIUPARTS_SUITE) $(PIUPARTS_BASE)
	piuparts --basetgz $(PIUPARTS_BASE) --distribution $(PIUPARTS_SUITE) --no-eatmydata --install-purge-install \
	  --fail-if-inadequate --fail-on-broken-symlinks --log-level info $(DEB)

package-test: test-deps build ## the package on a Debian machine with systemd, made for it: install, VM, upgrade, removal; BANGER_PREVIOUS, BANGER_PREVIOUS_DEB
	node scripts/test-bundle.ts $(DEV)
	BANGER_TEST_BUNDLE=$(DEV)/bundle node scripts/run-tests.ts --limit 1800 --report $(DEV)/package-tests.txt $(PACKAGE_TESTS)

release: ## packages, tarball, bill of materials, checksums in dist/release; VERSION=x cuts that version first, SIGNING_KEY=id signs
	$(if $(VERSION),node scripts/release/cut.ts "$(VERSION)")
	$(MAKE) build
	node scripts/release/main.ts

node_modules: package.json package-lock.json | host-deps
	npm ci --no-audit --no-fund
	@touch node_modules

deps: test-deps node_modules

# installs the packages of the programs that are missing, and only those
define install_missing
	@missing=(); libraries="$$(ldconfig -p)"; for pair in $(1); do \
	  command -v "$${pair%%:*}" >/dev/null || [[ "$$libraries" == *$$'\t'"$${pair%%:*} "* ]] || missing+=("$${pair##*:}"); done; \
	if [ $${#missing[@]} -gt 0 ]; then \
	  if command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ]; then \
	    apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "$${missing[@]}"; \
	  else echo "Missing programs. Install the packages: $${missing[*]}" >&2; exit 1; fi; \
	fi
endef

host-deps:
	$(call install_missing,$(NEEDED))

test-deps: host-deps
	$(call install_missing,$(TEST_NEEDED))

clean:
	rm -rf dist $(DEV)
