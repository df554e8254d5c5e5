import assert from 'node:assert/strict';
import { chmod, mkdir, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { DEFAULT_USERS, NO_VM_USERS } from '../../src/core/vm-users.ts';
import { runChecks } from '../../src/preflight/check.ts';
import { isolationChecks } from '../../src/preflight/checks/isolation.ts';
import type { PreflightContext } from '../../src/preflight/context.ts';
import { tempDir } from '../support/temp-dir.ts';
import { testMachine } from './support.ts';

const SWAPS = 'Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n';
const CPU = 'sys/devices/system/cpu';

/** What the checks find on a host whose kernel shows these files. */
async function found(t: TestContext, files: Record<string, string>, changes: Partial<PreflightContext> = {}) {
  const hostRoot = await tempDir(t);
  for (const [path, text] of Object.entries(files)) {
    await mkdir(dirname(join(hostRoot, path)), { recursive: true });
    await writeFile(join(hostRoot, path), text);
  }
  const { context } = await testMachine(t);
  const results = await runChecks(isolationChecks, { ...context, hostRoot, ...changes });
  return Object.fromEntries(results.map(({ id, status, detail, fix }) => [id, `${status}: ${detail} ${fix ?? ''}`]));
}

describe('what keeps guests apart', () => {
  it('is said to be there where it is', async (t) => {
    const seen = await found(
      t,
      {
        [`${CPU}/smt/active`]: '0\n',
        [`${CPU}/vulnerabilities/meltdown`]: 'Not affected\n',
        [`${CPU}/vulnerabilities/spectre_v1`]: 'Mitigation: usercopy/swapgs barriers\n',
        'sys/kernel/mm/ksm/run': '0\n',
        'proc/swaps': `${SWAPS}/dev/zram0 partition 1 0 100\n`,
      },
      {
        vmUsers: { range: DEFAULT_USERS, kvmGroup: undefined },
        cgroups: { directory: '/sys/fs/cgroup/banger' },
        tunDevice: '/dev/null',
      },
    );
    for (const [id, what] of Object.entries(seen)) assert.match(what, /^ok: /, id);
  });

  it('is warned of where it is not, with what helps', async (t) => {
    const seen = await found(
      t,
      {
        [`${CPU}/smt/active`]: '1\n',
        [`${CPU}/vulnerabilities/meltdown`]: 'Vulnerable\n',
        [`${CPU}/vulnerabilities/mds`]: 'Vulnerable: Clear CPU buffers attempted, no microcode\n',
        [`${CPU}/vulnerabilities/tsa`]: 'Not affected\n',
        'sys/kernel/mm/ksm/run': '1\n',
        'proc/swaps': `${SWAPS}/dev/sda2 partition 1 0 -2\n/dev/zram0 partition 1 0 100\n`,
      },
      { vmUsers: NO_VM_USERS, cgroups: { directory: undefined, why: 'there is no cgroup v2 at /sys/fs/cgroup' } },
    );
    assert.match(seen['isolation.smt'] ?? '', /^warning: .*one core.*smt\/control/);
    assert.match(seen['isolation.cpu'] ?? '', /^warning: .*: mds, meltdown\. .*microcode/);
    assert.match(seen['isolation.ksm'] ?? '', /^warning: .*KSM.*ksm\/run/);
    assert.match(seen['isolation.swap'] ?? '', /^warning: .*\/dev\/sda2 and.*swapoff/);
    assert.match(seen['isolation.cgroup'] ?? '', /^warning: .*there is no cgroup v2/);
    assert.match(seen['isolation.users'] ?? '', /^warning: VMs run as root/);
  });

  it('is not known of a kernel that does not tell', async (t) => {
    const seen = await found(t, {}, { uid: 1000 });
    const unknown = Object.entries(seen).filter(([, what]) => what.startsWith('not_applicable'));
    assert.deepEqual(unknown.map(([id]) => id).sort(), [
      'isolation.cgroup',
      'isolation.cpu',
      'isolation.ksm',
      'isolation.smt',
      'isolation.users',
    ]);
  });

  it('says that a start lets users of VMs make their network devices', async (t) => {
    const tunDevice = join(await tempDir(t), 'tun');
    await writeFile(tunDevice, '');
    await chmod(tunDevice, 0o600);
    const seen = await found(t, {}, { vmUsers: { range: DEFAULT_USERS, kvmGroup: undefined }, tunDevice });
    assert.match(seen['isolation.users'] ?? '', /^ok: VMs run as users .*; the next start lets them open .*tun/);
  });
});
