import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { BangerError } from '../../src/errors.ts';
import { VERSION } from '../../src/version.ts';
import { tempDir } from '../support/temp-dir.ts';
import { bundle, cli } from './cli.ts';

describe('the daemon commands', () => {
  /** no process has a number this high (PID_MAX_LIMIT) */
  const NOBODY = 2 ** 22 + 1;
  const status = {
    version: VERSION,
    pid: NOBODY,
    startedAt: new Date().toISOString(),
    socket: '/run/d.sock',
    stateDirectory: '/state',
    pool: '172.30.0.0/16',
    vms: { total: 3, running: 2 },
    operations: 0,
    commands: 0,
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
    assert.doesNotMatch(stdout, /^pool/m);
    const pooled = await cli('daemon status', { status: () => ({ ...status, standby: { ready: 1, wanted: 2 } }) });
    assert.match(pooled.stdout, /^pool +1 of 2 guests stand ready for new VMs$/m);
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

  it('tell of commands that lose their connection', async () => {
    let asked = 0;
    const { stderr } = await cli('daemon stop', {
      status: () => {
        asked += 1;
        if (asked > 1) throw new BangerError('daemon_unreachable', 'gone');
        return { ...status, commands: 2 };
      },
      shutdown: () => undefined,
    });
    assert.match(stderr, /warning: 2 commands of `banger exec` lost the connection/);
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
      throw new BangerError('conflict', 'Another bangerd serves /state already.', { hint: 'banger daemon status' });
    };
    const { status: exit, stderr } = await cli('daemon run', {}, { runDaemon: refused });
    assert.deepEqual(
      [exit, stderr],
      [5, 'banger: Another bangerd serves /state already.\n  try: banger daemon status\n'],
    );
    const forSystemd = async () => {
      throw new BangerError('conflict', 'The database is newer.', { hint: 'ls', details: { startRefused: true } });
    };
    const end = await cli('daemon run', {}, { runDaemon: forSystemd });
    assert.deepEqual([end.status, end.stderr], [78, 'banger: The database is newer.\n  try: ls\n']);
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
