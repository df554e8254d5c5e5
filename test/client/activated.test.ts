import assert from 'node:assert/strict';
import { mkdir, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { isDaemonRunning, type SocketUnitOptions, startSocketUnit } from '../../src/client/activated.ts';
import { createClient } from '../../src/client/client.ts';
import { identifyProcess } from '../../src/system/processes.ts';
import { scriptedRunner } from '../support/scripted-runner.ts';
import { tempDir } from '../support/temp-dir.ts';

describe('whether a daemon runs', () => {
  it('is told by a connection while nobody would start one by that', async (t) => {
    const dir = await tempDir(t);
    assert.equal(await isDaemonRunning(join(dir, 'mark'), join(dir, 'pid')), true);
  });

  it('is told by what it wrote down while systemd holds the socket', async (t) => {
    const dir = await tempDir(t);
    const [mark, pid] = [join(dir, 'mark'), join(dir, 'pid')];
    await symlink('nowhere', mark);
    const runs = () => isDaemonRunning(mark, pid);
    assert.equal(await runs(), false);
    const us = await identifyProcess(process.pid);
    await writeFile(pid, `${process.pid} ${us?.startTicks}\n`);
    assert.equal(await runs(), true);
    await writeFile(pid, `${process.pid} 1\n`);
    assert.equal(await runs(), false, 'a later process of the same number');
    for (const text of ['', 'nonsense', '0 0', '-1 5']) {
      await writeFile(pid, text);
      assert.equal(await runs(), false, text);
    }
  });

  it('keeps a client that asks for it from connecting', async () => {
    const client = createClient({ socketPath: '/nowhere', isRunning: async () => false });
    await assert.rejects(client.call('listVms', {}), { code: 'daemon_unreachable', hint: 'banger daemon start' });
  });
});

describe('the unit of the socket', () => {
  async function installed(t: TestContext, manager: 'system' | 'user'): Promise<SocketUnitOptions> {
    const dir = await tempDir(t);
    await mkdir(join(dir, 'lib/systemd', manager), { recursive: true });
    await writeFile(join(dir, 'lib/systemd', manager, 'bangerd.socket'), '');
    return {
      self: [join(dir, 'bin/banger')],
      env: { HOME: '/home/someone', PATH: '/bin' },
      uid: manager === 'system' ? 0 : 1000,
      runner: scriptedRunner({ 'systemctl --user --no-ask-password start bangerd.socket': {} }),
      managerDirectory: dir,
    };
  }

  it('is started by the manager of whoever asks', async (t) => {
    assert.equal(await startSocketUnit(await installed(t, 'user')), true);
    const runner = scriptedRunner({ 'systemctl --no-ask-password start bangerd.socket': {} });
    assert.equal(await startSocketUnit({ ...(await installed(t, 'system')), runner }), true);
  });

  it('is left alone where it is not of this program, or systemd is not there', async (t) => {
    const options = { ...(await installed(t, 'user')), runner: scriptedRunner({}) };
    assert.equal(await startSocketUnit({ ...options, self: ['/elsewhere/bin/banger'] }), false);
    assert.equal(await startSocketUnit({ ...options, self: ['/usr/bin/node', 'bin/banger.ts'] }), false);
    assert.equal(await startSocketUnit({ ...options, managerDirectory: undefined }), false);
    assert.equal(await startSocketUnit({ ...options, managerDirectory: '/nowhere' }), false);
    assert.equal(await startSocketUnit({ ...options, uid: 0 }), false);
  });

  it('is left alone where the daemon needs what this shell has set', async (t) => {
    const options = { ...(await installed(t, 'user')), runner: scriptedRunner({}) };
    for (const name of ['BANGER_VMM', 'BANGER_HOME', 'XDG_STATE_HOME', 'https_proxy', 'NO_PROXY'])
      assert.equal(await startSocketUnit({ ...options, env: { ...options.env, [name]: 'x' } }), false, name);
  });

  it('that cannot be started is no error: the daemon can be started without it', async (t) => {
    const runner = scriptedRunner({
      'systemctl --user --no-ask-password start bangerd.socket': { exit: 1, stderr: 'Failed to connect to bus' },
    });
    assert.equal(await startSocketUnit({ ...(await installed(t, 'user')), runner }), false);
  });
});
