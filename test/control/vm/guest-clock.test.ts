import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { describe, it, type TestContext } from 'node:test';
import type { ServerChannel } from 'ssh2';
import type { Host } from '../../../src/control/host.ts';
import { stepGuestClocks } from '../../../src/control/vm/guest-clock.ts';
import { connectSsh } from '../../../src/guest/ssh.ts';
import { sshGuest } from '../../guest/ssh-guest.ts';
import { sampleVm } from '../../support/sample-vm.ts';

const NOW = new Date('2026-11-29T12:00:00Z');

/** What the guest was told, and what the log says, when its `date` behaves like this. */
async function steppedFrom(t: TestContext, date: string): Promise<{ told: string[]; log: string[] }> {
  const told: string[] = [];
  const shell = (command: string, channel: ServerChannel) => {
    told.push(command);
    const child = spawn('sh', ['-c', `date() { ${date}; }; ${command}`], { stdio: ['ignore', 'pipe', 'ignore'] });
    child.stdout.on('data', (chunk: Buffer) => channel.write(chunk));
    child.once('close', (code) => {
      channel.exit(code ?? 255);
      channel.end();
    });
  };
  const { target } = await sshGuest(t, () => true, shell);
  await using connection = await connectSsh(target, 5000);
  const log: string[] = [];
  const note = (facts: object, message: string) => void log.push(`${message} ${JSON.stringify(facts)}`);
  const host = { guests: { get: async () => connection }, now: () => NOW, log: { info: note, warn: note } };
  await stepGuestClocks(host as unknown as Host, [sampleVm({ phase: 'running' })]);
  return { told, log };
}

describe('the clock of a guest', () => {
  it('is set when it stood still, and the log says by how much it was off', async (t) => {
    const seconds = NOW.getTime() / 1000;
    const { told, log } = await steppedFrom(t, `echo ${seconds - 3600}`);
    assert.deepEqual(told, ['date -u +%s', `date -u -s @${seconds}`]);
    assert.deepEqual(log, ['the clock of the guest was set {"vm":"web","offSeconds":-3600}']);
  });

  it('that is right is left alone', async (t) => {
    const { told, log } = await steppedFrom(t, `echo ${NOW.getTime() / 1000}`);
    assert.deepEqual([told, log], [['date -u +%s'], []]);
  });

  it('that cannot be read or set is told, and nothing more', async (t) => {
    assert.match((await steppedFrom(t, 'echo no idea')).log.join(), /could not be set .*date says: no idea/);
    const refused = '[ "$2" = +%s ] && echo 1 || exit 3';
    assert.match((await steppedFrom(t, refused)).log.join(), /could not be set .*date -s ended with 3/);
  });
});
