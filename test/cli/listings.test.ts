import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { describe, it } from 'node:test';
import type { DoctorReport } from '../../src/api/schemas.ts';
import { renderVms } from '../../src/cli/commands/vm-list.ts';
import { renderTable } from '../../src/cli/output/table.ts';
import { BangerError } from '../../src/errors.ts';
import { tempDir } from '../support/temp-dir.ts';
import { cli, done, operation, type Script, vm } from './cli.ts';

const unpainted = (_colour: string, text: string) => text;
const bundle = {
  name: 'debian-bookworm',
  directory: '/b/debian-bookworm',
  arch: 'x86_64',
  kernelRelease: '6.1.0',
  createdAt: null,
  legacy: false,
  isDefault: true,
  problem: null,
  usedBy: ['web'],
};

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
    tap: 'bgr0a1b2c3d',
    consoleLog: '/s/web/console.log',
    vmmLog: '/s/web/vmm.log',
    pending: null,
    current: null,
    restarts: null,
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
run by       fcqemu, process 4711
device       bgr0a1b2c3d, MAC 06:00:ac:1e:00:02
directory    /s/web
console log  /s/web/console.log
VMM log      /s/web/vmm.log

DISK  SIZE   ON HOST  FILE
root  8 GiB  300 MiB  /s/web/root.ext4

LAST BOOT  4 s
clone-root-disk  100 ms  |#                                       |
create-tap        40 ms  |#                                       |
wait-for-ssh      3.8 s  |  ######################################|
`,
    );
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
    assert.deepEqual(queries, [{}, { follow: true, lines: 20, source: 'vmm' }]);
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

describe('doctor', () => {
  const ok = { id: 'kvm', title: 'KVM', status: 'ok' as const, lookedFor: '/dev/kvm', detail: 'guests run' };
  const bad = {
    id: 'nft',
    title: 'nftables',
    status: 'failed' as const,
    lookedFor: 'nft in PATH',
    detail: 'not installed',
    fix: 'sudo apt install nftables',
  };

  it('is content when every check is', async () => {
    const { status, stdout } = await cli('doctor', {
      doctor: () => ({ checks: [ok], summary: { vmm: 'firecracker' }, ok: true }),
    });
    assert.deepEqual([status, stdout], [0, 'ok       KVM: guests run\n\nvmm  firecracker\n\nThis machine is ready.\n']);
  });

  it('fails when a start would, and says what fixes it', async () => {
    const { status, stdout } = await cli('doctor', { doctor: () => ({ checks: [ok, bad], summary: {}, ok: false }) });
    assert.equal(status, 6);
    assert.equal(
      stdout,
      `ok       KVM: guests run
FAILED   nftables: not installed
         looked for: nft in PATH
         fix: sudo apt install nftables

Checks that failed: 1
`,
    );
  });

  it('asks for the checks of one command, by words it knows', async () => {
    const asked: unknown[] = [];
    const script: Script = {
      doctor: ({ query }) => {
        asked.push(query?.command);
        return { checks: [ok], summary: {}, ok: true };
      },
    };
    assert.equal((await cli('doctor start', script)).status, 0);
    const { status, stderr } = await cli('doctor strat', script);
    assert.deepEqual(asked, ['start']);
    assert.equal(status, 2);
    assert.match(stderr, /no checks for "strat"\.\n {2}try: banger doctor start\n/);
  });

  describe('--fix', () => {
    const install = { ...bad, repair: { argv: ['apt-get', 'install', '-y', 'nftables'], asRoot: true } as const };
    const chmod = { ...bad, id: 'key', repair: { argv: ['chmod', '600', '/key'], asRoot: false } as const };
    const judge = { ...bad, id: 'pool', title: 'pool' };
    const optional = { ...chmod, id: 'other', status: 'warning' as const };

    async function fix(checks: DoctorReport['checks'], outcome: number, options: { json?: boolean } = {}) {
      const ran: string[] = [];
      let reports = 0;
      const result = await cli(
        options.json ? 'doctor --fix --json' : 'doctor --fix',
        {
          doctor: () => {
            reports += 1;
            const now = reports > 1 && outcome === 0 ? [ok] : checks;
            return { checks: now, summary: {}, ok: now.every(({ status }) => status !== 'failed') };
          },
        },
        {
          program: (argv, output) => {
            ran.push(`${argv.join(' ')} > ${output}`);
            return outcome;
          },
        },
      );
      return { ...result, ran, reports };
    }

    it('shows the commands, runs each once and asks again', async () => {
      const { status, stdout, stderr, ran, reports } = await fix([install, install, chmod, optional], 0);
      assert.deepEqual(ran, ['sudo -n -- apt-get install -y nftables > stderr', 'chmod 600 /key > stderr']);
      assert.equal(reports, 2);
      assert.match(
        stderr,
        /^These commands are run now:\n {2}sudo -n -- apt-get install -y nftables\n {2}chmod 600 \/key\n/,
      );
      assert.match(stdout, /ready/);
      assert.equal(status, 0);
    });

    it('says which command failed, and stays red', async () => {
      const { status, stdout, stderr } = await fix([install], 100);
      assert.equal(status, 6);
      assert.match(stderr, /`sudo -n -- apt-get install -y nftables` ended with 100/);
      assert.match(stdout, /Checks that failed: 1/);
    });

    it('runs nothing where somebody must decide', async () => {
      const { status, stderr, ran, reports } = await fix([judge], 0);
      assert.deepEqual([status, ran, reports], [6, [], 1]);
      assert.match(stderr, /yours to decide: nothing was run/);
    });

    it('prints nothing but the last report with --json', async () => {
      const { stdout } = await fix([chmod], 0, { json: true });
      assert.deepEqual(JSON.parse(stdout), { checks: [ok], summary: {}, ok: true });
    });
  });
});

describe('the daemon commands', () => {
  /** no process has a number this high (PID_MAX_LIMIT) */
  const NOBODY = 2 ** 22 + 1;
  const status = {
    version: '0.1.0',
    pid: NOBODY,
    startedAt: new Date().toISOString(),
    socket: '/run/d.sock',
    stateDirectory: '/state',
    pool: '172.30.0.0/16',
    vms: { total: 3, running: 2 },
    operations: 0,
    dns: { state: 'listening' as const, zone: 'vm', address: '127.0.0.1', port: 42_069, vms: 2, problem: null },
    rssBytes: 80 * 2 ** 20,
    store: { freeBytes: 2 ** 30, sizeBytes: 2 ** 34, state: 'low' as const },
  };

  it('show the status, or exit with 3 when no daemon runs', async () => {
    const { stdout } = await cli('daemon status', { status: () => status });
    assert.match(stdout, /^VMs +3, 2 of them running$/m);
    assert.match(stdout, /^memory +80 MiB$/m);
    assert.match(stdout, /^names +\*\.vm on 127\.0\.0\.1 port 42069, 2 VMs$/m);
    assert.match(stdout, /^store +1 GiB of 16 GiB free; nearly full$/m);
    assert.equal((await cli('daemon status', { unreachable: true })).status, 3);
  });

  it('stop it and wait until it is gone', async () => {
    let asked = 0;
    let stopping = false;
    const result = await cli('daemon stop', {
      status: () => {
        if (stopping) asked += 1;
        if (asked > 2) throw new BangerError('daemon_unreachable', 'gone');
        return status;
      },
      shutdown: () => {
        stopping = true;
        return undefined;
      },
    });
    assert.deepEqual([result.status, result.stdout], [0, 'The daemon is stopped; VMs that keep running: 2\n']);
    assert.equal(asked, 3);
  });

  it('wait for the process too, which may live on when its socket is closed', async () => {
    const daemon = spawn(process.execPath, ['-e', 'setTimeout(() => {}, 60_000)'], { stdio: 'ignore' });
    let asked = false;
    let killed = false;
    const { status: exit } = await cli('daemon stop', {
      status: () => {
        if (asked) throw new BangerError('daemon_unreachable', 'gone');
        return { ...status, pid: daemon.pid ?? NOBODY };
      },
      shutdown: () => {
        asked = true;
        setTimeout(() => {
          killed = daemon.kill('SIGKILL');
        }, 150);
        return undefined;
      },
    });
    assert.equal(exit, 0);
    assert.ok(killed, 'it had ended before the command did');
  });

  it('are done when another daemon has taken its place meanwhile', async () => {
    let pid = NOBODY;
    const stop = () => {
      pid = NOBODY + 1;
      return undefined;
    };
    const script = { status: () => ({ ...status, pid }), shutdown: stop };
    assert.equal((await cli('daemon stop', script)).status, 0);
  });

  it('have nothing to stop when none runs', async () => {
    const { status: exit, stdout } = await cli('daemon stop', { unreachable: true });
    assert.deepEqual([exit, stdout], [0, 'No daemon runs.\n']);
  });

  it('become the daemon, and fail as it does', async () => {
    const ran: string[] = [];
    assert.equal((await cli('daemon run', {}, { runDaemon: async () => void ran.push('daemon') })).status, 0);
    assert.deepEqual(ran, ['daemon']);
    const refused = async () => {
      throw new BangerError('conflict', 'Another bangerd serves /state already.');
    };
    const { status: exit, stderr } = await cli('daemon run', {}, { runDaemon: refused });
    assert.deepEqual([exit, stderr], [5, 'banger: Another bangerd serves /state already.\n']);
  });
});

describe('version', () => {
  it('shows that of the daemon when one runs, and starts none', async () => {
    const status = { version: '0.0.9' } as never;
    assert.match((await cli('version', { status: () => status })).stdout, /^daemon +0\.0\.9$/m);
    assert.match((await cli('version', { unreachable: true })).stdout, /^daemon +not running$/m);
  });
});

describe('config', () => {
  it('shows each setting with the place it comes from', async (t) => {
    const home = await tempDir(t);
    await writeFile(join(home, 'config.toml'), '[vm]\nvcpus = 3\n');
    const env = { BANGER_HOME: home, BANGER_VM_MEMORY: '2GiB' };
    const noBundle = { showBundle: () => Promise.reject(new BangerError('not_found', 'There is no bundle.')) };
    const { stdout, stderr } = await cli('config show --origin', noBundle, { env });
    assert.match(stdout, new RegExp(`^vm\\.vcpus +3 +${home}/config\\.toml:2$`, 'm'));
    assert.match(stdout, /^vm\.memory +"2GiB" +BANGER_VM_MEMORY$/m);
    assert.match(stdout, /^vm\.root_disk +"8GiB" +built-in$/m);
    assert.equal(stderr, '');
    const plain = await cli('config show', noBundle, { env });
    assert.match(plain.stdout, /^vm\.memory +"2GiB"$/m);
  });

  it('shows what the bundle says of new VMs, and the rest when no daemon can tell', async (t) => {
    const env = { BANGER_HOME: await tempDir(t) };
    const defaults = { vcpus: 1, memoryMib: 512, bootArgs: '', rootDiskBytes: 4 * 2 ** 30, workDiskBytes: 8 * 2 ** 30 };
    const detail = {
      ...bundle,
      kernel: '',
      initrd: '',
      rootfs: '',
      modules: null,
      packages: null,
      helpers: [],
      notice: null,
    };
    const script = { showBundle: () => ({ ...detail, defaults }) };
    assert.match((await cli('config show --origin', script, { env })).stdout, /^vm\.memory +"512MiB" +bundle$/m);
    const alone = await cli('config show --origin', { unreachable: true }, { env });
    assert.match(alone.stdout, /^vm\.memory +"1GiB" +built-in$/m);
    assert.match(alone.stderr, /what the bundle says of new VMs is not shown: No daemon answers/);
  });

  it('checks everything and exits with 2 when something is wrong', async (t) => {
    const home = await tempDir(t);
    const check = () => cli('config check', {}, { env: { BANGER_HOME: home } });
    const good = await check();
    assert.equal(good.status, 0);
    assert.match(good.stdout, /^not there {2}.*config\.toml\nThe configuration is right\.\n$/);
    await mkdir(home, { recursive: true });
    await writeFile(join(home, 'config.toml'), '[vm]\nvcpus = 99\n');
    const bad = await check();
    assert.equal(bad.status, 2);
    assert.match(bad.stdout, /^read {2}.*config\.toml$/m);
    assert.match(bad.stdout, /vcpus/);
  });
});
