/** A host that has everything: every check passes, and its VMM is one that does nothing. */
import assert from 'node:assert/strict';
import type { Checks } from '../../src/control/checks.ts';

export const PASSED_CHECKS: Checks = {
  beforeCreate: async () => {},
  beforeStart: async () => {},
  beforeImageBuild: async () => {},
  beforeBundleBuild: async () => {},
  beforeResize: async () => {},
  beforeNat: async () => {},
  beforeLogin: async () => {},
  chooseVmm: async () => ({ kind: 'fcqemu', acceleration: 'tcg', program: ['vmm'], env: {}, reason: '' }),
  doctor: () => assert.fail('nobody asks'),
  sudoers: () => assert.fail('nobody asks'),
};
