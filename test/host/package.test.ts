/**
 * The Debian package on a system of its own: this one with everything that is changed laid over it, and with no systemd, as in a
 * container. Nothing of the host is touched.
 */
import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { installedContent, layoutOf } from '../../scripts/package/content.ts';
import { buildDeb } from '../../scripts/package/deb.ts';
import { stage } from '../../scripts/package/stage.ts';
import { MARKER } from '../../src/dns/resolvers/plan.ts';
import { VERSION } from '../../src/version.ts';
import { lacking } from '../bundle/sample-bundle.ts';
import { onOwnSystem } from '../package/support/own-system.ts';
import { daemonSkip } from '../support/host.ts';
import { paced } from '../support/pace.ts';

const LIMIT = { timeout: paced(120_000) };
const ORIGIN = { version: VERSION, date: new Date('2026-11-29T12:00:00Z') };

function skip(): string | false {
  if (daemonSkip()) return daemonSkip();
  if (process.getuid?.() !== 0) return 'dpkg needs root';
  if (existsSync('/var/lib/dpkg/info/banger.list')) return 'this host has the package installed';
  return lacking('dpkg', 'unshare', 'deb-systemd-helper');
}

describe('the package', { skip: skip() }, () => {
  let work = '';
  before(async () => {
    work = await mkdtemp(join(tmpdir(), 'banger-test-'));
    for (const version of ['0.0.1', VERSION])
      await buildDeb({ ...ORIGIN, version, output: join(work, 'packages'), compression: 'none' });
  });
  after(() => rm(work, { recursive: true, force: true }));

  /** Dependencies may be missing here; they are not the subject. */
  const run = (script: string, room?: string) =>
    onOwnSystem(script, { work, dpkgOptions: '--force-depends', ...(room ? { room } : {}) });

  it('is installed, upgraded, removed and purged without a question, and leaves disks alone', LIMIT, async (t) => {
    await writeFile(join(work, 'packages/told.conf'), `${MARKER}\n`);
    const { status, said } = await run(`
      set -e
      state() { echo "$1: $(dpkg-query -W -f '\${Status} \${Version}' banger 2>/dev/null), socket \\
        $(readlink /etc/systemd/user/sockets.target.wants/bangerd.socket)"; }
      install 0.0.1; state installed
      getent group banger; ls -ld /usr/share/man/man1/banger-run.1.gz
      test "$(banger --version)" = "banger ${VERSION}"
      rm /etc/systemd/user/sockets.target.wants/bangerd.socket
      install ${VERSION}; state upgraded
      mkdir -p /var/lib/banger/store /root/.local/state/banger /var/cache/banger
      echo disk > /var/lib/banger/store/disk
      mount -t tmpfs tmpfs /var/lib/banger/store; echo mounted > /var/lib/banger/store/disk
      mkdir -p /etc/unbound/unbound.conf.d; cp /packages/told.conf /etc/unbound/unbound.conf.d/banger-vm.conf
      echo 'by hand' > /etc/unbound/unbound.conf.d/banger-mine.conf
      dpkg --no-triggers -r banger; ls /etc/unbound/unbound.conf.d/banger-vm.conf; state removed
      install ${VERSION}
      dpkg --no-triggers -P banger; state purged
      cat /var/lib/banger/store/disk
      find /etc /usr /var/lib/systemd /var/cache /run -xdev -name '*banger*' -not -path '*/src/*'
    `);
    if (status === 32 || said.includes('wrong fs type')) return t.skip(`no system can be laid over this one: ${said}`);
    assert.equal(status, 0, said);
    assert.match(
      said,
      /^installed: install ok installed 0\.0\.1, socket.*\/usr\/lib\/systemd\/user\/bangerd\.socket$/m,
    );
    assert.match(said, /^banger:x:\d+:$/m);
    assert.match(
      said,
      new RegExp(`^upgraded: install ok installed ${VERSION}, socket *$`, 'm'),
      'what was disabled stays so',
    );
    assert.match(said, /^removed: deinstall ok config-files/m);
    assert.match(said, /disks and records of VMs were kept: \/var\/lib\/banger\n/);
    assert.match(said, /disks and records of VMs were kept: \/root\/\.local\/state\/banger\n/);
    assert.match(said, /^banger: the host's resolver asks no banger any more: \S+banger-vm\.conf is gone$/m);
    assert.match(
      said,
      /^purged: .*\nmounted\n\/etc\/unbound\/unbound\.conf\.d\/banger-mine\.conf\n$/m,
      'nothing else is left',
    );
  });

  it('is installed beside one made by hand, which it tells of', LIMIT, async () => {
    const byHand = join(work, 'packages/by-hand');
    stage(
      byHand,
      (await installedContent(layoutOf('/usr/local'), ORIGIN)).filter(({ kind }) => kind !== 'hardlink'),
    );
    const { status, said } = await run(`
      cp -a /packages/by-hand/. / && install ${VERSION} && dpkg --no-triggers -P banger && /usr/local/bin/banger --version
    `);
    await rm(byHand, { recursive: true });
    assert.equal(status, 0, said);
    assert.match(said, /\/usr\/local\/bin\/banger comes first in PATH.*\n.*make uninstall/);
    assert.doesNotMatch(said, /Configuration file|What would you like/);
    assert.match(said, /banger \d+\.\d+\.\d+\n$/);
  });

  it('ends daemons when it is removed, says which VMs go on, and touches those of no other system', LIMIT, async () => {
    await writeFile(join(work, 'packages/fcqemu'), '#!/bin/sh\nsleep 60\n', { mode: 0o755 });
    const { status, said } = await run(`
      set -e
      install ${VERSION}
      export BANGER_HOME=/own
      banger daemon start
      pid=$(banger daemon status --json | sed -n 's/.*"pid": \\([0-9]*\\),.*/\\1/p')
      /packages/fcqemu --api-sock /run/banger/vmm/0a1b2c3d.sock & vmm=$!
      mkdir other && mount --bind / other
      chroot other /packages/fcqemu --api-sock /run/banger/vmm/deadbeef.sock & sleep 0.3
      dpkg --no-triggers -r banger
      echo "vmm $vmm"
      kill -0 $vmm
      for i in $(seq 100); do kill -0 $pid 2>/dev/null || exit 0; sleep 0.1; done
      exit 1
    `);
    assert.equal(status, 0, said);
    const vmm = /^vmm (\d+)$/m.exec(said)?.[1];
    assert.match(said, new RegExp(`VMs keep running without a daemon; processes of their VMMs: ${vmm} \\n`), said);
  });

  it('that finds no room leaves the one that was there', LIMIT, async () => {
    const { status, said } = await run(
      `
      install 0.0.1 && if install ${VERSION}; then exit 1; fi
      dpkg-query -W -f '\${Version}\\n' banger; banger --version; rm -rf /usr/share/doc/* /filler
      dpkg --configure -a; dpkg-query -W -f '\${Status}\\n' banger
      `,
      '190m',
    );
    assert.equal(status, 0, said);
    assert.match(said, /No space left on device/);
    assert.match(said, /^0\.0\.1\nbanger \d/m);
    assert.match(said, /^install ok installed$/m);
  });
});
