import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import { chmod, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { tempDir } from '../support/temp-dir.ts';
import { cli } from './cli.ts';

const missing = (program: string, ...args: string[]) =>
  spawnSync(program, args).error ? `${program} is not installed here` : false;

/** A directory with a `banger` that knows two VMs and one operation, and files to complete. */
async function playground(t: TestContext) {
  const dir = await tempDir(t);
  const banger = join(dir, 'banger');
  await writeFile(banger, '#!/bin/sh\ncase "$*" in "ls --names") echo web; echo worker ;; *ids) echo 3f2a ;; esac\n');
  await chmod(banger, 0o755);
  await writeFile(join(dir, 'notes.txt'), '');
  return dir;
}

describe('completion for bash', { skip: missing('bash', '--version') }, () => {
  /** What bash offers after a line, the cursor at its end. */
  async function offers(t: TestContext, line: string): Promise<string[]> {
    const dir = await playground(t);
    const { stdout } = await cli('completion bash', {});
    await writeFile(join(dir, 'completion'), stdout);
    const words = line.split(' ');
    // bash itself cuts words at colons
    const cut = words.flatMap((word) =>
      word.split(/(:)/).filter((part, i, all) => part !== '' || all.length === 1 || i === all.length - 1),
    );
    const program = `source ./completion
      compopt() { :; }
      COMP_LINE=$1 COMP_POINT=\${#1}; shift
      COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
      _banger
      printf '%s\\n' "\${COMPREPLY[@]}"`;
    const found = execFileSync('bash', ['--norc', '-c', program, 'bash', line, ...cut], {
      cwd: dir,
      encoding: 'utf8',
      env: { PATH: `${dir}:${process.env.PATH}` },
    });
    return found.split('\n').filter(Boolean).sort();
  }

  it('offers commands and nouns', async (t) => {
    assert.deepEqual(await offers(t, 'banger st'), ['start', 'stats', 'stop']);
    assert.ok((await offers(t, 'banger ')).includes('daemon'));
    assert.deepEqual(await offers(t, 'banger daemon s'), ['start', 'status', 'stop']);
  });

  it('offers the names of VMs where a VM is meant', async (t) => {
    for (const line of [
      'banger start w',
      'banger vm start w',
      'banger ssh w',
      'banger start web w',
      'banger rm -f w',
    ]) {
      assert.deepEqual(await offers(t, line), ['web', 'worker'], line);
    }
    assert.deepEqual(await offers(t, 'banger operation wait '), ['3f2a']);
    assert.deepEqual(await offers(t, 'banger completion f'), ['fish']);
  });

  it('offers options of the command', async (t) => {
    assert.deepEqual(await offers(t, 'banger create --m'), ['--memory']);
    assert.deepEqual(await offers(t, 'banger exec --no-'), ['--no-stdin', '--no-tty']);
  });

  it('offers files and VMs to copy between', async (t) => {
    assert.deepEqual(await offers(t, 'banger cp n'), ['notes.txt']);
    assert.deepEqual(await offers(t, 'banger cp notes.txt w'), ['web:', 'worker:']);
  });

  it('leaves what follows exec NAME to the files there are', async (t) => {
    assert.deepEqual(await offers(t, 'banger exec web cat n'), ['notes.txt']);
  });
});

describe('completion for other shells', () => {
  it('is a script that zsh can read', { skip: missing('zsh', '--version') }, async () => {
    const { stdout } = await cli('completion zsh', {});
    execFileSync('zsh', ['-n', '/dev/stdin'], { input: stdout });
  });

  it('is a script that fish can read and offers VMs', { skip: missing('fish', '--version') }, async (t) => {
    const dir = await playground(t);
    const { stdout } = await cli('completion fish', {});
    await writeFile(join(dir, 'completion'), stdout);
    const offers = (line: string) =>
      execFileSync('fish', ['--no-config', '-c', `source completion; complete -C "${line}"`], {
        cwd: dir,
        encoding: 'utf8',
        env: { PATH: `${dir}:${process.env.PATH}`, HOME: dir },
      })
        .split('\n')
        .map((offer) => offer.split('\t')[0])
        .filter(Boolean);
    assert.deepEqual(offers('banger start w'), ['web', 'worker']);
    assert.deepEqual(offers('banger daemon sta'), ['start', 'status']);
    assert.deepEqual(offers('banger vm start --t'), ['--timeout']);
  });

  it('is refused for shells nobody has written one for', async () => {
    const { status, stderr } = await cli('completion tcsh', {});
    assert.deepEqual([status, stderr.split('\n')[0]], [2, 'banger: There is no completion for "tcsh".']);
  });
});
