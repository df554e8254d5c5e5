/** What to do about a VM after the daemon was away: the record says what should be, what is seen decides. */
import type { VmPhase } from './vm.ts';

export interface SeenVm {
  /** a VMM process of this VM lives */
  vmmAlive: boolean;
  /** its API says the guest was started */
  guestStarted: boolean;
  /** the VMM ended by itself because the guest rebooted */
  guestRebooted: boolean;
  /** the VM's process belonged to an earlier boot of the host */
  hostRestarted: boolean;
}

export type ReconcileAction =
  /** take over a living VM */
  | { do: 'adopt' }
  /** free what a run left and call it stopped */
  | { do: 'release'; because: string }
  /** free what a run left and call it failed */
  | { do: 'fail'; because: string }
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
      if (seen.vmmAlive && seen.guestStarted) return { do: 'adopt' };
      if (seen.hostRestarted) return { do: 'release', because: 'the host was restarted' };
      if (seen.vmmAlive) return { do: 'fail', because: 'the VMM lives but no longer answers' };
      if (seen.guestRebooted) return { do: 'start-again' };
      return { do: 'fail', because: 'the VMM ended while no daemon was there' };
    case 'stopped':
    case 'failed':
      return seen.vmmAlive ? { do: 'release', because: 'it was running although it should not' } : { do: 'nothing' };
  }
}
