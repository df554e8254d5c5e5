/**
 * The Debian package in a bare Debian: what Debian calls essential, apt, and what the package depends on, as in a chroot or a
 * container. Nothing of the package's dependencies is overlooked there, and nobody has systemd.
 */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { mkdir, mkdtemp, rename, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { buildDeb, DEPENDS } from '../../scripts/package/deb.ts';
import { prepareApt, updateLists } from '../../src/bundle/debian/apt.ts';
import { createRunner } from '../../src/system/runner.ts';
import { VERSION } from '../../src/version.ts';
import { lacking } from '../bundle/sample-bundle.ts';
import { onOwnSystem } from '../package/support/own-system.ts';
import { daemonSkip } from '../support/host.ts';
import { paced } from '../support/pace.ts';

const LIMIT = { timeout: paced(120_000) };
/** The first time, with the packages. */
const START_LIMIT = { timeout: paced(600_000) };
const DIRECTORY = join(import.meta.dirname, '../../.dev');
const SUITE = 'bookworm';
const ORIGIN = { version: VERSION, date: new Date('2026-11-29T12:00:00Z') };

/** The root directory of such a system, which is kept. */
async function bareDebian(): Promise<string> {
  const names = DEPENDS.map((dependency) => dependency.replace(/ .*/, ''));
  const sum = createHash('sha256').update(names.join()).digest('hex').slice(0, 8);
  const root = join(DIRECTORY, `bare-${SUITE}-${sum}`);
  if (existsSync(root)) return root;
  await mkdir(DIRECTORY, { recursive: true });
  const work = await mkdtemp(join(DIRECTORY, 'bare-part-'));
  try {
    const env = { ...process.env, PATH: `${process.env.PATH}:/usr/sbin:/sbin`, TMPDIR: work };
    const runner = createRunner(env);
    const apt = await prepareApt(runner, { suite: SUITE, arch: 'amd64', dir: join(work, 'apt'), env });
    await updateLists(runner, apt);
    const options = join(work, 'apt-options');
    await writeFile(options, [...apt.acquireLines, ...apt.credentialLines, ''].join('\n'));
    const argv = ['--mode=root', '--variant=apt', '--format=directory', '--skip=output/dev', `--aptopt=${options}`];
    const tree = join(work, 'tree');
    await runner.run(['mmdebstrap', ...argv, `--include=${names.join(',')}`, SUITE, tree, apt.sourcesFile], {
      env,
      timeoutMs: START_LIMIT.timeout,
    });
    await rename(tree, root);
    return root;
  } finally {
    await rm(work, { recursive: true, force: true });
  }
}

function skip(): string | false {
  if (daemonSkip()) return daemonSkip();
  if (process.getuid?.() !== 0) return 'dpkg needs root';
  if (process.env.BANGER_PROOF) return 'KVM makes no difference to a package, and mmdebstrap is slow in the rig';
  return lacking('dpkg-deb', 'mmdebstrap', 'unshare');
}

describe('the package in a bare Debian', { skip: skip() }, () => {
  let work = '';
  let below = '';
  before(async () => {
    below = await bareDebian();
    work = await mkdtemp(join(tmpdir(), 'banger-test-'));
    for (const version of ['0.0.1', VERSION])
      await buildDeb({ ...ORIGIN, version, output: join(work, 'packages'), compression: 'none' });
  }, START_LIMIT);
  after(() => rm(work, { recursive: true, force: true }));

  it('lacks nothing that it does not depend on, and works without systemd', LIMIT, async () => {
    const { status, said } = await onOwnSystem(
      `
      set -e
      test ! -e /lib/systemd/systemd
      install 0.0.1; install ${VERSION}
      test "$(banger --version)" = "banger ${VERSION}"; fcqemu --version | head -n 1; bangerd=$(getent group banger); echo "$bangerd"
      banger daemon start > /dev/null; banger ls; banger doctor --json > /dev/null || echo "doctor $?"
      banger daemon status --json | grep '"pid"'
      dpkg -r banger; banger --version 2> /dev/null || echo 'is gone'
      install ${VERSION}; dpkg -P banger
      dpkg --audit
      find /etc /usr /var -xdev -name '*banger*' -not -path '/var/lib/banger*' -not -name '0000banger.sources'
      `,
      { work, below },
    );
    assert.equal(status, 0, said);
    assert.match(said, /^Firecracker v.*\nbanger:x:\d+:$/m, said);
    assert.match(said, /^doctor 6$/m, 'what it recommends is missed by a check, and not by accident');
    assert.match(said, /^is gone$/m);
    assert.match(said, /disks and records of VMs were kept: \/var\/lib\/banger\n$/, said);
  });

  it(
    'has its profile loaded by an AppArmor that understands it, whenever that comes, unless there is another',
    LIMIT,
    async () => {
      const { status, said } = await onOwnSystem(
        `
      set -e
      profile() { echo "$1: $(readlink /etc/apparmor.d/banger), $(grep -c userns /etc/apparmor.d/banger 2> /dev/null || true)"; }
      install 0.0.1; profile without
      mkdir -p /etc/apparmor.d/abi; touch /etc/apparmor.d/abi/4.0
      dpkg-trigger --no-await --by-package=base-files /etc/apparmor.d/abi; dpkg --triggers-only --pending; profile later
      install ${VERSION}; profile upgraded
      dpkg -r banger; profile removed
      echo '# mine' > /etc/apparmor.d/banger
      install ${VERSION}; profile mine
      dpkg -P banger; cat /etc/apparmor.d/banger
      `,
        { work, below },
      );
      assert.equal(status, 0, said);
      const link = '../../usr/share/banger/apparmor-profile';
      for (const line of [
        'without: , ',
        `later: ${link}, 1`,
        `upgraded: ${link}, 1`,
        'removed: , ',
        'mine: , 0',
        '# mine',
      ])
        assert.ok(said.split('\n').includes(line), `${line}\n${said}`);
    },
  );

  it('is installed, removed and purged where not even /proc is there', LIMIT, async () => {
    const { status, said } = await onOwnSystem(
      `set -e; install 0.0.1; install ${VERSION}; getent group banger; dpkg -r banger; dpkg -P banger; dpkg --audit
      find /etc /usr /var /run -xdev -name '*banger*' -not -name '0000banger.sources'`,
      { work, below, state: 'bare' },
    );
    assert.equal(status, 0, said);
    assert.match(said, /^banger:x:\d+:$/m);
    assert.doesNotMatch(said, /No such file|warning/i);
    assert.match(said, /Purging configuration files for banger.*\n$/, said);
  });
});
