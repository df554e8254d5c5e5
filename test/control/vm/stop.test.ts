import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, writeFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import { dirname, join } from 'node:path';
import { text } from 'node:stream/consumers';
import { describe, it, type TestContext } from 'node:test';
import type { ServerChannel } from 'ssh2';
import type { Host } from '../../../src/control/host.ts';
import { askGuest } from '../../../src/control/vm/stop.ts';
import { connectSsh } from '../../../src/guest/ssh.ts';
import { vmmSocket } from '../../../src/storage/layout.ts';
import { sshGuest } from '../../guest/ssh-guest.ts';
import { hostSystem } from '../../support/host-system.ts';
import { sampleVm } from '../../support/sample-vm.ts';
import { tempDir } from '../../support/temp-dir.ts';

/** What a VMM is asked while a guest with this login shell is told to go down. */
async function askedOfVmm(t: TestContext, shell: (command: string, channel: ServerChannel) => void): Promise<string[]> {
  const run = await tempDir(t);
  const vm = sampleVm({ phase: 'running' });
  const asked: string[] = [];
  const socket = vmmSocket(run, vm.id);
  await mkdir(dirname(socket), { recursive: true });
  const vmm = createServer(async (request, response) => {
    asked.push(JSON.parse(await text(request)).action_type);
    response.writeHead(204).end();
  }).listen(socket);
  await once(vmm, 'listening');
  t.after(() => vmm.close());
  const { target } = await sshGuest(t, () => true, shell);
  await using connection = await connectSsh(target, 5000);
  const host = {
    guests: { peek: () => connection },
    config: { paths: { run } },
    stores: { ledger: { of: () => [] } },
    system: hostSystem(),
  } as unknown as Host;
  await askGuest(host, vm, { warn: (words) => assert.fail(words) });
  return asked;
}

describe('a guest that is to shut down', () => {
  it('is asked by Ctrl-Alt-Del when its login shell ends before it has heard', async (t) => {
    const endsAtOnce = (_command: string, channel: ServerChannel) => {
      channel.write('This account is currently not available.\n');
      channel.exit(1);
      channel.end();
    };
    assert.deepEqual(await askedOfVmm(t, endsAtOnce), ['SendCtrlAltDel']);
  });

  it('is asked once when it hears over SSH: its init, and logind first where somebody holds a lock of it', async (t) => {
    const locks = await tempDir(t);
    const told: string[] = [];
    const shell = (systemctl: string) => (command: string, channel: ServerChannel) => {
      // systemctl and kill are stood in for: this machine is not to go down
      const functions = `systemctl() { echo "systemctl $*" >&3; ${systemctl}; }; kill() { echo "kill $*" >&3; }`;
      const line = `${functions}; ${command.replaceAll('/run/systemd/inhibit', locks)}`;
      const child = spawn('sh', ['-c', line], { stdio: ['ignore', 'pipe', 'pipe', 'pipe'] });
      child.stdout?.pipe(channel, { end: false });
      child.stdio[3]?.on('data', (words: Buffer) => told.push(...words.toString().trim().split('\n')));
      child.once('close', (code) => {
        channel.exit(code ?? 255);
        channel.end();
      });
    };
    const itself = 'systemctl start --no-block --job-mode=replace-irreversibly reboot.target';
    for (const [systemctl, expected] of [
      ['true', [itself]],
      ['false', [itself, 'kill -INT 1']],
    ] as const) {
      assert.deepEqual(await askedOfVmm(t, shell(systemctl)), []);
      assert.deepEqual(told.splice(0), expected);
    }
    await writeFile(join(locks, '1'), 'WHAT=shutdown\n');
    assert.deepEqual(await askedOfVmm(t, shell('true')), []);
    assert.deepEqual(told, ['systemctl reboot --no-block']);
  });
});
