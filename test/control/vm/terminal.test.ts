import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import type { ServerChannel } from 'ssh2';
import type { Host } from '../../../src/control/host.ts';
import { terminalFor } from '../../../src/control/vm/terminal.ts';
import { connectSsh } from '../../../src/guest/ssh.ts';
import { sshGuest } from '../../guest/ssh-guest.ts';
import { sampleVm } from '../../support/sample-vm.ts';
import { tempDir } from '../../support/temp-dir.ts';

/** What is said about terminals over a connection to a guest that treats commands like this. */
async function asks(t: TestContext, perform: (command: string, channel: ServerChannel) => void) {
  const { target } = await sshGuest(t, () => true, perform);
  const connection = await connectSsh(target, 5000);
  t.after(() => connection[Symbol.asyncDispose]());
  const host = { guests: { get: async () => connection } } as unknown as Host;
  return (term: string) => terminalFor(host, sampleVm(), term);
}

/** Its shell, with a home that has terminals of its own. */
function shell(home: string) {
  return (command: string, channel: ServerChannel) => {
    execFile('sh', ['-c', command], { env: { ...process.env, HOME: home } }, (error, stdout) => {
      channel.write(stdout);
      channel.exit(error ? 1 : 0);
      channel.end();
    });
  };
}

describe('the terminal of a login', () => {
  it('is one that the guest knows, by the system or by its user', async (t) => {
    const home = await tempDir(t);
    const ask = await asks(t, shell(home));
    assert.equal(await ask('vt100'), 'vt100');
    for (const term of ['xterm-nobody-has-it', '../../etc/passwd', "x'; echo y; '", '$(id)', '-n', ' ']) {
      assert.equal(await ask(term), 'xterm-256color', term);
    }
    await mkdir(join(home, '.terminfo/x'), { recursive: true });
    await writeFile(join(home, '.terminfo/x/xterm-nobody-has-it'), '');
    assert.equal(await ask('xterm-nobody-has-it'), 'xterm-nobody-has-it');
  });

  it('is not known from a guest that says something else, or nothing', async (t) => {
    const says = async (text: string, code: number) => {
      const ask = await asks(t, (_, channel) => {
        channel.write(text);
        channel.exit(code);
        channel.end();
      });
      return await ask('xterm-kitty');
    };
    assert.equal(await says('xterm\nLD_PRELOAD=x', 0), null);
    assert.equal(await says('x'.repeat(100_000), 0), null);
    assert.equal(await says('xterm', 1), null);
    assert.equal(await says('', 0), null);
    const host = { guests: { get: () => Promise.reject(new Error('gone')) } } as unknown as Host;
    assert.equal(await terminalFor(host, sampleVm(), 'xterm-kitty'), null);
  });
});
