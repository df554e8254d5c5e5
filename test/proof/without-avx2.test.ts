import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { qemuArguments } from '../../fcqemu/qemu/arguments.ts';
import { LACKS, MODEL, qemuWithoutAvx2 } from './without-avx2.ts';

describe("the rig's QEMU", () => {
  it('gets every argument as it is, and a processor without AVX2', () => {
    const directory = mkdtempSync(join(tmpdir(), 'banger-avx2-'));
    try {
      const fake = '#!/bin/sh\nfor word; do printf "%s\\0" "$word"; done\n';
      writeFileSync(join(directory, 'qemu-system-x86_64'), fake, { mode: 0o755 });
      const given = qemuArguments({
        ...{
          instanceId: 'x',
          accelerator: 'tcg',
          vcpuCount: 2,
          memoryMib: 512,
          kernelPath: '/a kernel',
          initrdPath: null,
        },
        ...{
          commandLine: 'console=ttyS0 a="b c"',
          drives: [],
          interfaces: [],
          entropy: null,
          balloon: null,
          vsock: null,
        },
        ...{ sandbox: true, announces: false, restore: false },
      });
      const env = { PATH: `${directory}:/usr/bin:/bin` };
      const said = execFileSync(qemuWithoutAvx2(directory), given, { env, encoding: 'utf8' });
      assert.ok(given.includes(MODEL), 'banger asks for another processor now');
      const expected = given.map((word) => (word === MODEL ? `${MODEL},${LACKS}` : word));
      assert.deepEqual(said.split('\0').slice(0, -1), expected);
    } finally {
      rmSync(directory, { recursive: true });
    }
  });
});
