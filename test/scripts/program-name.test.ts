import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { symlink } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { describe, it } from 'node:test';
import { findProgram } from '../../scripts/program-name.ts';
import { tempDir } from '../support/temp-dir.ts';

const MODULE = resolve(import.meta.dirname, '../../scripts/program-name.ts');

/** What a process is that execve was given these. */
function found(argv0: string, executed: string, file: string) {
  return findProgram(argv0, file, () => executed);
}

describe('which program the executable is', () => {
  const both = '/usr/local/bin/banger';

  it('argument 0 decides, with or without a path', () => {
    for (const argv0 of ['banger', './banger', '/usr/local/bin/banger', '-banger', 'banger-0.2.0'])
      assert.equal(found(argv0, both, both).program, 'banger', argv0);
    for (const argv0 of [
      'fcqemu',
      'dist/fcqemu',
      '/x/fcqemu',
      '-fcqemu',
      'fcqemu.old',
      'firecracker',
      'firecracker-v1.16.1-x86_64',
    ])
      assert.equal(found(argv0, both, both).program, 'fcqemu', argv0);
  });

  it('only the last part of a path counts', () => {
    assert.equal(found('/opt/firecracker/banger', both, both).program, 'banger');
    assert.equal(found('/opt/banger/fcqemu', both, both).program, 'fcqemu');
  });

  it('where argument 0 says nothing the path of execve does, then the name of the file, then it is banger', () => {
    assert.equal(found('anything', '/usr/local/bin/fcqemu', both).program, 'fcqemu');
    assert.equal(found('', '/x/vmm', '/usr/local/bin/fcqemu').program, 'fcqemu');
    assert.equal(found('', '/x/vmm', '/x/vmm').program, 'banger');
  });

  it('tells the name it was started by, and its own where there is none', () => {
    assert.equal(found('/x/firecracker', both, both).name, 'firecracker');
    assert.equal(found('-banger', both, both).name, 'banger');
    assert.equal(found('', '/x/fcqemu', both).name, 'fcqemu');
  });

  it('the path of execve is read from the process, and a link is not followed', async (t) => {
    const dir = await tempDir(t);
    const link = join(dir, 'fcqemu');
    await symlink(process.execPath, link);
    const script = `import { findProgram } from ${JSON.stringify(MODULE)};
      console.log(JSON.stringify(findProgram(process.argv0, process.execPath)));`;
    const { stdout } = spawnSync(link, ['--input-type=module-typescript', '-e', script], {
      argv0: 'other',
      encoding: 'utf8',
    });
    assert.deepEqual(JSON.parse(stdout), { program: 'fcqemu', name: 'other' });
  });
});
