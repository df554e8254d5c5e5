/**
 * The life of the package on a Debian machine with systemd: installed by apt, used by an ordinary user without sudo, upgraded while a
 * VM runs, removed, installed again, purged. Each test goes on where the one before has ended. `make package-test`; what is upgraded
 * is the package that BANGER_PREVIOUS_DEB names, else that of the commit BANGER_PREVIOUS, else that of the commit before this one.
 */
import assert from 'node:assert/strict';
import { copyFileSync, cpSync, mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { buildDeb } from '../../../scripts/package/deb.ts';
import { previousPackage } from '../../../scripts/package/previous.ts';
import { VERSION } from '../../../src/version.ts';
import { lacking } from '../../bundle/sample-bundle.ts';
import { hostSkip } from '../../support/host.ts';
import { leanBundle } from '../../support/lean-bundle.ts';
import { paced } from '../../support/pace.ts';
import { CARRIED, DebianHost } from '../support/debian-host.ts';

const DIRECTORY = join(import.meta.dirname, '../../../.dev');
const ORIGIN = { version: VERSION, date: new Date('2026-11-29T12:00:00Z') };
const OLD = '0.0.1';
const debOf = (version: string) => `${CARRIED}/packages/banger_${version}_amd64.deb`;
const apt = (...words: string[]) => `apt-get -y -q ${words.join(' ')}`;

/** The first time with the build of the machine's bundle, which is kept. */
const START_LIMIT = { timeout: paced(1_200_000) };
const LIMIT = { timeout: paced(600_000) };
const BOOT_LIMIT_MS = 480_000;

/** Settings of the user: a daemon that systemd starts has nothing of the shell's environment. */
const SETTINGS = `
[bundle]
default = "${CARRIED}/bundle"
[warm]
automatic = false
[limits]
boot_timeout = "7m"
stop_timeout = "3m"
`;

/** What somebody without the group tries by hand, each with what came of it. */
const ATTEMPTS = String.raw`
use Socket;
my $tap = shift;
sub tell_of { my ($what, $ok) = @_; print "$what: ", ($ok ? 'done' : "$!"), "\n" }
socket(my $unix, AF_UNIX, SOCK_STREAM, 0);
tell_of('the helper', connect($unix, pack_sockaddr_un('/run/bangernet.sock')));
tell_of('a packet socket', socket(my $packet, 17, SOCK_RAW, 0x0300));
tell_of('a raw socket', socket(my $raw, AF_INET, SOCK_RAW, 1));
for my $name ($tap, 'bgr-00000bad') {
  open(my $tun, '+<', '/dev/net/tun') or do { tell_of($name, 0); next };
  my $request = pack('a16 S x22', $name, 0x1002);
  tell_of($name, ioctl($tun, 0x400454ca, $request));
}
tell_of('forwarding', open(my $file, '>', '/proc/sys/net/ipv4/conf/all/forwarding'));
`;

function previousDeb(): string {
  const { BANGER_PREVIOUS_DEB: given, BANGER_PREVIOUS: commit } = process.env;
  const found =
    given || previousPackage({ directory: join(DIRECTORY, 'previous'), version: OLD, ...(commit && { commit }) });
  if (!found) throw new Error('There is no commit before this one. BANGER_PREVIOUS_DEB can name an older package.');
  return found;
}

const skip =
  hostSkip('mmdebstrap', 'debugfs', 'dpkg-deb') ||
  lacking('nsenter') ||
  (process.env.BANGER_PROOF !== undefined && 'this is a machine within a machine already');

describe('the package on a machine with systemd', { skip }, () => {
  let host: DebianHost;
  before(async () => {
    host = await DebianHost.start({
      directory: DIRECTORY,
      load: async (tree) => {
        const packages = join(tree, 'packages');
        await buildDeb({ ...ORIGIN, output: packages, compression: 'none' });
        copyFileSync(previousDeb(), join(packages, `banger_${OLD}_amd64.deb`));
        const bundle = await leanBundle(process.env.BANGER_TEST_BUNDLE ?? '', DIRECTORY);
        mkdirSync(join(tree, 'bundle'));
        cpSync(bundle, join(tree, 'bundle'), { recursive: true });
      },
      tell: (text) => console.log(text),
    });
  }, START_LIMIT);
  after(() => host?.[Symbol.asyncDispose]());

  /** Facts of the VM and of what serves it, as `NAME VALUE` lines. */
  const FACTS = `
    banger ls > /dev/null
    banger show web --json | sed -n 's/^  "\\(state\\|pid\\|address\\|id\\)": "\\{0,1\\}\\([^",]*\\).*/\\1 \\2/p'
    banger daemon status --json | sed -n 's/^  "pid": \\([0-9]*\\).*/daemon \\1/p'
    echo "unit $(systemctl --user show -p MainPID --value bangerd.service)"`;

  async function facts(): Promise<Record<string, string>> {
    const said = await host.as('anna', FACTS);
    return Object.fromEntries(said.split('\n').flatMap((line) => (/^\w+ \S+$/.test(line) ? [line.split(' ')] : [])));
  }

  it('is installed by apt without a question, with a socket for the group and one for each user', LIMIT, async () => {
    const said = await host.shell(`
      chmod 755 ${CARRIED} ${CARRIED}/bundle; chmod -R a+rX ${CARRIED}
      ${apt('install', '--no-install-recommends', debOf(OLD))}
      modprobe kvm_amd; udevadm settle
      useradd -m -G banger,kvm anna; useradd -m bert
      systemctl is-enabled bangernet.socket; systemctl is-active bangernet.socket bangernet.service || true
      systemctl --global is-enabled bangerd.socket
      stat -c '%A %U %G' /run/bangernet.sock /dev/kvm
      loginctl enable-linger anna bert
      for user in anna bert; do
        systemctl start user@$(id -u $user).service
        install -d -o $user -g $user /home/$user/.config /home/$user/.config/banger
        echo '${SETTINGS}' > /home/$user/.config/banger/config.toml
      done
    `);
    assert.match(said, /^enabled\nactive\ninactive\nenabled\nsrw-rw---- root banger\ncrw-rw---- root kvm$/m, said);
    assert.doesNotMatch(said, /error|ended with/i);
  });

  it('lets a member of the group run a VM without sudo', LIMIT, async () => {
    const said = await host.as(
      'anna',
      `
      banger run web --until reachable --vcpus 1 --memory 192M --work-disk none < /dev/null
      banger exec -n web -- hostname`,
      BOOT_LIMIT_MS,
    );
    assert.match(said, /^web$/m, said);
    const { state, daemon, unit, pid, id } = await facts();
    assert.equal(state, 'running');
    assert.equal(daemon, unit, 'systemd has started it');
    const outside = await host.shell(`
      stat -c 'VMM of %U' /proc/${pid}
      stat -c 'daemon of %U' /proc/${daemon}
      helper=$(systemctl show -p MainPID --value bangernet.service)
      sed -n 's/^\\(Uid\\|CapEff\\|CapBnd\\|NoNewPrivs\\|Seccomp\\):[[:space:]]*\\([^[:space:]]*\\).*/\\1 \\2/p' /proc/$helper/status
      cat /sys/class/net/bgr-${id}/owner; id -u anna
      journalctl -q -o cat -u bangernet | grep ': attach'
    `);
    assert.match(outside, /^VMM of anna\ndaemon of anna$/m, outside);
    assert.match(outside, /^CapEff 0000000000001000\nCapBnd 0000000000001000\nNoNewPrivs 1\nSeccomp 2$/m, outside);
    assert.doesNotMatch(outside, /^Uid 0$/m);
    assert.match(outside, /^(\d+)\n\1\nuid \1 pid \d+: attach /m, outside);
  });

  it('gives somebody who is not in the group nothing, and no packet gets anywhere', LIMIT, async () => {
    const { id, address = '' } = await facts();
    const rules = 'nft list ruleset; ip -br link; ip route; ip rule';
    const said = await host.shell(`
      { ${rules}; } > /run/before
      tcpdump -Z root -i any -nn -U -w /run/packets 'net ${address.replace(/\.\d+\.\d+$/, '.0.0')}/16' 2> /run/tcpdump & watcher=$!
      for i in $(seq 100); do if grep -q listening /run/tcpdump; then break; fi; sleep 0.1; done
      cat > /run/attempts.pl <<'END'\n${ATTEMPTS}\nEND
      runuser -u bert -- perl /run/attempts.pl bgr-${id}
      runuser -u bert -- sh -c 'PATH=$PATH:/usr/sbin; ip link add bgr-00000bad type dummy; nft list ruleset' || true
      { ${rules}; } > /run/after; cmp /run/before /run/after && echo unchanged
      sleep 1; cp /run/packets /run/packets-of-bert
      ping -c 1 -W 20 ${address} > /dev/null; sleep 1; kill -INT $watcher; wait $watcher || true
      for file in packets-of-bert packets; do echo "$file: $(tcpdump -Z root -nn -r /run/$file 2> /dev/null | wc -l)"; done
    `);
    assert.match(
      said,
      new RegExp(
        `^the helper: Permission denied\na packet socket: Operation not permitted\na raw socket: Operation not permitted\nbgr-${id}: .*(not permitted|busy).*\nbgr-00000bad: Operation not permitted\nforwarding: Permission denied$`,
        'm',
      ),
      said,
    );
    // what would have been seen is: root's ping is
    assert.match(said, /^unchanged\npackets-of-bert: 0\npackets: [1-9]/m, said);
    const refused = await host.as(
      'bert',
      'banger create web --memory 192M --work-disk none; banger start web || echo "exit $?"',
    );
    assert.match(refused, /not in its group, banger/, refused);
    assert.match(refused, /sudo usermod -aG banger "\$USER", then log in again/);
    assert.match(refused, /^exit 6$/m);
    assert.equal((await host.as('bert', 'banger rm --now --force web')).includes('ended with'), false);
  });

  it('is upgraded while a VM runs, which goes on, and the new daemon takes it over', LIMIT, async () => {
    const before = await facts();
    const said = await host.shell(apt('install', '--no-install-recommends', debOf(VERSION)));
    assert.match(said, new RegExp(`banger \\(${VERSION}\\)`), said);
    assert.doesNotMatch(said, /ended with|What would you like/);
    const running = await host.as(
      'anna',
      `
      for i in $(seq 60); do
        banger ls > /dev/null
        pid=$(systemctl --user show -p MainPID --value bangerd.service)
        case "$pid:$(readlink /proc/$pid/exe)" in 0:* | ${before.daemon}:* | *deleted*) sleep 1 ;; *) break ;; esac
      done
      banger exec -n web -- hostname`,
    );
    assert.match(running, /^web$/m, running);
    const now = await facts();
    assert.notEqual(now.daemon, before.daemon);
    assert.equal(now.daemon, now.unit);
    assert.deepEqual([now.state, now.pid, now.address], ['running', before.pid, before.address]);
    assert.equal((await host.shell(`systemctl is-active bangernet.socket`)).trim(), 'active');
  });

  it('is removed while a VM runs, which goes on, and takes it over when it is back', LIMIT, async () => {
    const before = await facts();
    const said = await host.shell(`
      ${apt('remove', 'banger')}
      kill -0 ${before.pid} && echo 'the VM runs'
      test -e /proc/${before.daemon} || echo 'no daemon'
      test -e /run/bangernet.sock || echo 'no helper'
      ${apt('install', '--no-install-recommends', debOf(VERSION))}
    `);
    assert.match(
      said,
      new RegExp(`VMs keep running without a daemon; processes of their VMMs: .*\\b${before.pid}\\b`),
      said,
    );
    assert.match(said, /^the VM runs$/m, said);
    assert.match(said, /^no helper$/m, said);
    // the socket of a user who is logged in came back with the first command
    const now = await facts();
    assert.deepEqual([now.state, now.pid], ['running', before.pid]);
    assert.match(await host.as('anna', 'banger exec -n web -- hostname; banger stop web'), /^web$/m);
  });

  it('is purged without a question, and says where the disks are that it keeps', LIMIT, async () => {
    const said = await host.shell(`
      ${apt('purge', 'banger')}
      find /home/anna/.local/state/banger -name '*.ext4' -size +1M | head -n 1
      # this machine is a guest of banger itself, which has a part of /run
      find /etc /usr /var/lib/systemd /var/cache /run/private -xdev -name '*banger*'; ls -d /run/bangernet* || true
      getent group banger
    `);
    assert.match(said, /disks and records of VMs were kept: \/home\/anna\/\.local\/state\/banger$/m, said);
    assert.match(said, /\/home\/anna\/\.local\/state\/banger\/\S+\nls: [^\n]*\nbanger:x:\d+:anna\n$/, said);
  });
});
