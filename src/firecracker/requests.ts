/** Every request the driver can send to a VMM, as data: one test holds them all against Firecracker's schema. */
import type {
  BootSource,
  Drive,
  EntropyDevice,
  InstanceActionInfo,
  MachineConfiguration,
  NetworkInterface,
  PartialDrive,
  SnapshotCreateParams,
  SnapshotLoadParams,
  VmState,
  Vsock,
} from './api-types.ts';

export interface VmmRequest {
  method: 'GET' | 'PUT' | 'PATCH';
  path: string;
  body?: object;
}

export const describeInstance = (): VmmRequest => ({ method: 'GET', path: '/' });

export const version = (): VmmRequest => ({ method: 'GET', path: '/version' });

export const machineConfig = (body: MachineConfiguration): VmmRequest => ({
  method: 'PUT',
  path: '/machine-config',
  body,
});

export const bootSource = (body: BootSource): VmmRequest => ({ method: 'PUT', path: '/boot-source', body });

export const drive = (body: Drive): VmmRequest => ({ method: 'PUT', path: `/drives/${body.drive_id}`, body });

/** Of a running VM: the VMM looks at the file again, and the guest learns its size. */
export const updateDrive = (body: PartialDrive): VmmRequest => ({
  method: 'PATCH',
  path: `/drives/${body.drive_id}`,
  body,
});

export const networkInterface = (body: NetworkInterface): VmmRequest => ({
  method: 'PUT',
  path: `/network-interfaces/${body.iface_id}`,
  body,
});

export const vsock = (body: Vsock): VmmRequest => ({ method: 'PUT', path: '/vsock', body });

export const entropy = (body: EntropyDevice = {}): VmmRequest => ({ method: 'PUT', path: '/entropy', body });

export const action = (type: InstanceActionInfo['action_type']): VmmRequest => ({
  method: 'PUT',
  path: '/actions',
  body: { action_type: type } satisfies InstanceActionInfo,
});

export const setState = (state: VmState['state']): VmmRequest => ({
  method: 'PATCH',
  path: '/vm',
  body: { state } satisfies VmState,
});

/** Of a paused VM: writes it to files, from which a VMM of the same kind goes on. */
export const createSnapshot = (body: SnapshotCreateParams): VmmRequest => ({
  method: 'PUT',
  path: '/snapshot/create',
  body,
});

/** Of a VMM that was told nothing yet. */
export const loadSnapshot = (body: SnapshotLoadParams): VmmRequest => ({ method: 'PUT', path: '/snapshot/load', body });
