import assert from 'node:assert/strict';
import {
  chmodSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { createRunner } from '../../src/system/runner.ts';
import { mergeUsr, missingIn } from './host-files.ts';

describe('the programs of the rig', () => {
  it('are of the packages that its bundle lacks, in the versions of the archive', () => {
    const list = 'bash 5.2.15-2+b13 amd64\nlibc6 2.36-9 amd64\n';
    const packages = ['bash', 'bash-completion', 'libc6', 'nftables'].map((name) => ({ name, version: `1:${name}-1` }));
    assert.deepEqual(missingIn(list, packages), ['bash-completion=1:bash-completion-1', 'nftables=1:nftables-1']);
  });

  it('lie below /usr, whether their package says so or not', async () => {
    const tree = mkdtempSync(join(tmpdir(), 'banger-usr-'));
    try {
      for (const place of ['bin', 'usr/bin', 'lib/x86_64-linux-gnu', 'usr/lib/x86_64-linux-gnu', 'etc']) {
        mkdirSync(join(tree, place), { recursive: true });
      }
      writeFileSync(join(tree, 'bin/mount.it'), 'it');
      chmodSync(join(tree, 'bin/mount.it'), 0o4755);
      symlinkSync('/etc/alternatives/nc', join(tree, 'bin/nc'));
      writeFileSync(join(tree, 'usr/bin/other'), 'other');
      writeFileSync(join(tree, 'lib/x86_64-linux-gnu/one.so'), '1');
      writeFileSync(join(tree, 'usr/lib/x86_64-linux-gnu/two.so'), '2');
      await mergeUsr(createRunner(process.env), tree);
      assert.deepEqual(readdirSync(tree).sort(), ['etc', 'usr']);
      assert.deepEqual(readdirSync(join(tree, 'usr/bin')).sort(), ['mount.it', 'nc', 'other']);
      assert.deepEqual(readdirSync(join(tree, 'usr/lib/x86_64-linux-gnu')).sort(), ['one.so', 'two.so']);
      assert.equal(readFileSync(join(tree, 'usr/bin/mount.it'), 'utf8'), 'it');
      assert.equal(statSync(join(tree, 'usr/bin/mount.it')).mode & 0o7777, 0o4755);
    } finally {
      rmSync(tree, { recursive: true });
    }
  });
});
