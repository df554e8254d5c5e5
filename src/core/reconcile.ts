/** What to do about a VM after the daemon was away: the record says what should be, what is seen decides. */
import type { VmPhase } from './vm.ts';

export interface SeenVm {
  /** a VMM process of this VM lives */
  vmmAlive: boolean;
  /** what its API says; `silent` when it takes the question and does not answer, as a halted process does */
  vmm: 'started' | 'not-started' | 'silent' | 'unreachable';
  /** the VMM ended by itself because the guest rebooted */
  guestRebooted: boolean;
  /** the VM's process belonged to an earlier boot of the host */
  hostRestarted: boolean;
  /** the ledger knows of something on the host that only a run has */
  holdsSomething: boolean;
  /**
   * memory of a VM that is suspended or was about to go on: no guest went on from it, one did and has written nothing
   * to its disks, or one may have written to them
   */
  memory: 'none' | 'whole' | 'unused' | 'overtaken';
}

export type ReconcileAction =
  /** take over a living VM */
  | { do: 'adopt' }
  /** free what a run left and call it stopped */
  | { do: 'release'; because: string }
  /** free what a run left and call it failed */
  | { do: 'fail'; because: string }
  /** let the guest of a living VMM run on, whose suspend was cut off */
  | { do: 'go-on'; because: string }
  /** let the guest of a living VMM go on and wake it, as the resume would have that was cut off */
  | { do: 'finish-resume'; because: string }
  /** free what a run left; it is suspended */
  | { do: 'keep-suspended'; because: string }
  /** the guest rebooted: start it again */
  | { do: 'start-again' }
  /** a creation that nobody was told had succeeded */
  | { do: 'discard' }
  | { do: 'nothing' };

export function reconcile(phase: VmPhase, seen: SeenVm): ReconcileAction {
  switch (phase) {
    case 'creating':
      return { do: 'discard' };
    case 'starting':
      return { do: 'release', because: 'its start was interrupted' };
    case 'stopping':
      return { do: 'release', because: 'its stop was interrupted' };
    case 'running':
      // a silent one may only be halted or busy: its guest's data is worth more than a clean picture
      if (seen.vmmAlive && (seen.vmm === 'started' || seen.vmm === 'silent')) return { do: 'adopt' };
      if (seen.hostRestarted) return { do: 'release', because: 'the host was restarted' };
      if (seen.vmmAlive) return { do: 'fail', because: 'the VMM lives but cannot be reached or has no guest' };
      if (seen.guestRebooted) return { do: 'start-again' };
      return { do: 'fail', because: 'the VMM ended while no daemon was there' };
    case 'suspending':
      // one that is silent may be writing the memory: it is asked again
      if (seen.vmmAlive && seen.vmm === 'silent') return { do: 'nothing' };
      if (seen.vmmAlive && seen.vmm === 'started') return { do: 'go-on', because: 'its suspend was interrupted' };
      if (seen.hostRestarted) return { do: 'release', because: 'the host was restarted while it was being suspended' };
      return { do: 'fail', because: 'the VMM ended while its memory was being saved' };
    case 'suspended':
      if (seen.vmmAlive) return { do: 'keep-suspended', because: 'its VMM was still there' };
      return seen.holdsSomething
        ? { do: 'keep-suspended', because: 'something of its run was left' }
        : { do: 'nothing' };
    case 'resuming':
      if (seen.memory === 'whole') return { do: 'keep-suspended', because: 'its resume was interrupted' };
      if (seen.vmmAlive && seen.vmm === 'silent') return { do: 'nothing' };
      if (seen.vmmAlive && seen.vmm === 'started')
        return { do: 'finish-resume', because: 'its resume was interrupted' };
      if (seen.memory === 'unused') return { do: 'keep-suspended', because: 'its guest had not written anything yet' };
      if (seen.hostRestarted) return { do: 'release', because: 'the host was restarted just after it had gone on' };
      return { do: 'fail', because: 'the VMM ended just after it had gone on from its memory' };
    case 'stopped':
    case 'failed':
      if (seen.vmmAlive) return { do: 'release', because: 'it was running although it should not' };
      return seen.holdsSomething ? { do: 'release', because: 'something of a run was left' } : { do: 'nothing' };
  }
}
