/** The second part of an initrd: an SSH server with everything it is loaded with. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { describe, it } from 'node:test';
import { collectSshServer, readElf, toolsArchive } from '../../../src/bundle/boot/guest-tools.ts';

const TRUE = readFileSync('/bin/true');
const AGENT = Buffer.from('agent');

describe('tools for guests', () => {
  it('a program says what it is loaded with', () => {
    const { interpreter, needed } = readElf(TRUE);
    assert.match(interpreter ?? '', /^\/lib.*\/ld-linux/);
    assert.deepEqual(needed, ['libc.so.6']);
    assert.throws(() => readElf(Buffer.from('#!/bin/sh\n')), /none for this machine/);
  });

  it('the server comes with its libraries and theirs, or not at all', async () => {
    const { interpreter = '' } = readElf(TRUE);
    const files: Record<string, Buffer> = {
      '/usr/sbin/sshd': TRUE,
      '/usr/lib/openssh/sftp-server': TRUE,
      [interpreter]: TRUE,
      '/usr/lib64/libc.so.6': TRUE,
    };
    const found = await collectSshServer(async (path) => files[path]);
    assert.deepEqual([...(found?.libraries.keys() ?? [])], ['libc.so.6']);
    assert.equal(await collectSshServer(async (path) => (path.includes('libc') ? undefined : files[path])), undefined);
    const archive = toolsArchive(AGENT, found).toString('latin1');
    for (const name of [
      'private/ssh/sshd',
      'private/ssh/lib/libc.so.6',
      'private/ssh/etc/passwd',
      'bin/banger-agent',
    ]) {
      assert.ok(archive.includes(`${name}\0`), name);
    }
    assert.ok(!toolsArchive(AGENT, undefined).includes('private/ssh/server\0'));
  });
});
