import assert from 'node:assert/strict';
import { Readable } from 'node:stream';
import { describe, it } from 'node:test';
import { renderVms } from '../../src/cli/commands/vm/list.ts';
import { renderTable } from '../../src/cli/output/table.ts';
import { bundle, cli, done, operation, vm } from './cli.ts';

const unpainted = (_colour: string, text: string) => text;

describe('ls', () => {
  it('shows a table with a line for each VM', () => {
    const now = Date.parse('2026-01-02T05:04:05Z');
    const vms = [
      vm('web', { startedAt: '2026-01-02T03:04:05Z' }),
      vm('a-longer-name', { state: 'stopped', vcpus: 16, memoryMib: 1536, address: '172.30.12.34' }),
    ];
    assert.equal(
      renderVms(vms, unpainted, now),
      `NAME           STATE    ADDRESS       CPU  MEM      IMAGE            UPTIME
web            running  172.30.0.2    1    1 GiB    debian-bookworm  2 h
a-longer-name  stopped  172.30.12.34  16   1.5 GiB  debian-bookworm  -`,
    );
  });

  it('says how to make one when there is none, and keeps stdout empty', async () => {
    const { status, stdout, stderr } = await cli('ls', { listVms: () => [] });
    assert.deepEqual([status, stdout, stderr], [0, '', 'No VMs yet. Make one with: banger run NAME\n']);
    assert.equal((await cli('ls --json', { listVms: () => [] })).stdout, '[]\n');
  });

  it('prints names alone, and nothing when no daemon runs', async () => {
    const listVms = () => [vm('db'), vm('web')];
    assert.equal((await cli('ls --names', { listVms })).stdout, 'db\nweb\n');
    assert.deepEqual(await cli('ls --names', { unreachable: true }), { status: 0, stdout: '', stderr: '' });
  });

  it('colours states on a terminal', async () => {
    const { stdout } = await cli('ls', { listVms: () => [vm('web')] }, { terminal: true });
    assert.ok(stdout.includes('\u001b[32mrunning'));
  });

  it('exits with 3 when the daemon cannot be reached', async () => {
    const { status, stderr } = await cli('ls', { unreachable: true });
    assert.deepEqual([status, stderr], [3, 'banger: No daemon answers.\n  try: banger daemon start\n']);
  });
});

describe('tables', () => {
  it('pad what is painted by what is seen', () => {
    const red = { text: 'no', paint: (text: string) => `<${text}>` };
    assert.equal(
      renderTable(
        ['A', 'LAST'],
        [
          [red, 'x'],
          ['yes', ''],
        ],
        unpainted,
      ),
      'A    LAST\n<no   >x\nyes',
    );
  });
});

describe('vm show', () => {
  const detail = {
    ...vm('web', { failure: null, nat: false }),
    directory: '/s/web',
    disks: [
      { role: 'root' as const, path: '/s/web/root.ext4', apparentBytes: 8 * 2 ** 30, allocatedBytes: 300 * 2 ** 20 },
    ],
    vmmVersion: '1.16.1+fcqemu',
    vmmLimits: [],
    agent: null,
    process: null,
    userData: null,
    tap: 'bgr0a1b2c3d',
    consoleLog: '/s/web/console.log',
    vmmLog: '/s/web/vmm.log',
    pending: null,
    current: null,
    restarts: null,
    notResumable: [],
    lastEnd: null,
    bootTimeline: [
      { step: 'clone-root-disk', startedMs: 0, durationMs: 100 },
      { step: 'create-tap', startedMs: 0, durationMs: 40 },
      { step: 'wait-for-ssh', startedMs: 200, durationMs: 3800 },
    ],
    bootMs: 4000,
  };

  it('shows facts, disks and where the boot spent its time', async () => {
    const { stdout } = await cli('vm show web', { showVm: () => detail });
    assert.equal(
      stdout,
      `name         web
id           0a1b2c3d
state        running
image        debian-bookworm
address      172.30.0.2, reaches nothing outside this host
processors   1
memory       1 GiB
autostart    no
restart      never
created      2026-01-02T03:04:05.000Z
run by       fcqemu 1.16.1, process 4711
device       bgr0a1b2c3d, MAC 06:00:ac:1e:00:02
directory    /s/web
console log  /s/web/console.log
VMM log      /s/web/vmm.log

DISK  SIZE   ON HOST  FILE
root  8 GiB  300 MiB  /s/web/root.ext4

LAST BOOT  login after 4 s, ready after 9.1 s
clone-root-disk  100 ms  |#                                       |
create-tap        40 ms  |#                                       |
wait-for-ssh      3.8 s  |  ######################################|
`,
    );
  });

  it('says what an older VMM cannot do', async () => {
    const old = { ...detail, vmm: 'firecracker', vmmVersion: '1.13.1', vmmLimits: ['no this', 'no that'] };
    const { stdout } = await cli('show web', { showVm: () => old });
    assert.match(stdout, /^run by +firecracker 1\.13\.1, process 4711\nVMM limits +no this; no that$/m);
  });

  it('shows what was said last before an end that nobody wanted', async () => {
    const lines = ['[ 61.2] Kernel panic - not syncing: VFS', '[ 61.3] Rebooting in 1 seconds..'];
    const why = 'The kernel of its guest panicked: VFS';
    const lastEnd = { at: '2026-01-02T03:04:05.000Z', kind: 'panic' as const, why, lines };
    const { stdout } = await cli('vm show web', { showVm: () => ({ ...detail, lastEnd }) });
    const shown = `LAST END NOBODY WANTED  2026-01-02T03:04:05.000Z\n${why}\n  ${lines.join('\n  ')}\n\nLAST BOOT`;
    assert.ok(stdout.includes(shown), stdout);
  });

  it('says why a VM has failed, and leaves out what a stopped one has not', async () => {
    const stopped = {
      ...detail,
      state: 'failed' as const,
      failure: 'no space left',
      pid: null,
      vmm: null,
      bootTimeline: [],
    };
    const { stdout } = await cli('show web', { showVm: () => stopped });
    assert.match(stdout, /^state +failed: no space left$/m);
    assert.doesNotMatch(stdout, /run by|device|LAST BOOT/);
  });
});

describe('logs', () => {
  it('pass on the stream and its options', async () => {
    const queries: unknown[] = [];
    const logs = ({ query }: { query?: unknown }) => {
      queries.push(query);
      return Readable.from([Buffer.from('Booting\n')]);
    };
    assert.equal((await cli('logs web', { logs })).stdout, 'Booting\n');
    await cli('logs web -f -n 20 --vmm', { logs });
    await cli('logs web --previous', { logs });
    assert.deepEqual(queries, [{}, { follow: true, lines: 20, source: 'vmm' }, { previous: true }]);
  });

  it('say so when the daemon goes away', async () => {
    const logs = () =>
      new Readable({
        read() {
          this.destroy(new Error('aborted'));
        },
      });
    const { status, stderr } = await cli('logs web -f', { logs });
    assert.deepEqual([status, stderr], [3, 'banger: The daemon went away: aborted.\n  try: banger daemon status\n']);
  });
});

describe('bundle list', () => {
  it('marks the default and says why one cannot be used', async () => {
    const broken = {
      ...bundle,
      name: 'old',
      isDefault: false,
      kernelRelease: null,
      problem: 'vmlinux is missing',
      usedBy: [],
    };
    const { stdout } = await cli('bundle list', { listBundles: () => [bundle, broken] });
    assert.equal(
      stdout,
      `NAME                       ARCH    KERNEL  VMS  DIRECTORY
debian-bookworm (default)  x86_64  6.1.0   1    /b/debian-bookworm
old                        x86_64  -       0    cannot be used: vmlinux is missing
`,
    );
    assert.match((await cli('bundle ls', { listBundles: () => [] })).stderr, /banger bundle build/);
  });
});

describe('operations', () => {
  const failed = operation({
    id: 'op2',
    state: 'failed',
    finishedAt: '2026-01-02T03:04:07.000Z',
    error: { code: 'timeout', message: 'no answer', hint: 'banger logs web', type: 't', title: 't', status: 504 },
  });

  it('are listed with what they do or why they failed', async () => {
    const { stdout } = await cli('operation list', { listOperations: () => [failed] });
    assert.equal(stdout, 'ID   KIND      TARGET  STATE   TIME  WHAT\nop2  vm.start  web     failed  2 s   no answer\n');
    assert.equal((await cli('operation ls --ids', { listOperations: () => [failed] })).stdout, 'op2\n');
    assert.equal((await cli('operation ls --ids', { unreachable: true })).status, 0);
  });

  it('are shown one by one', async () => {
    const { stdout } = await cli('operation show op2', { showOperation: () => failed });
    assert.match(stdout, /^error +no answer$/m);
    assert.match(stdout, /^hint +banger logs web$/m);
  });

  it('are waited for, with their own outcome as the exit status', async () => {
    const script = {
      showOperation: () => operation(),
      events: { op1: [done({ state: 'failed', error: failed.error })] },
    };
    assert.equal((await cli('operation wait op1', script)).status, 7);
    const good = { showOperation: () => operation(), events: { op1: [done()] } };
    assert.equal((await cli('operation wait op1', good)).stdout, 'vm.start web has succeeded\n');
  });

  it('are cancelled, or it is said why not', async () => {
    const cancel = (cancelled: boolean, watchers: number) => ({ cancelOperation: () => ({ cancelled, watchers }) });
    assert.equal((await cli('operation cancel op1', cancel(true, 0))).status, 0);
    const watched = await cli('operation cancel op1', cancel(false, 2));
    assert.equal(watched.status, 5);
    assert.match(watched.stderr, /2 other clients wait for it/);
    assert.match((await cli('operation cancel op1', cancel(false, 0))).stderr, /it has ended already/);
  });
});
