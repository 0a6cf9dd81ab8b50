// A device beside the CPU that is not there: its kernels are the CPU's, its memory is the host's. Tensors of both may not
// meet, as on a GPU: an operation that gets some of each, or a generator of the other one, is an error. As on a GPU too,
// tensors without dimensions and indices may be the CPU's.
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/EmptyTensor.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <ATen/native/CPUFallback.h>
#include <ATen/native/Resize.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <c10/core/impl/alloc_cpu.h>
#include <torch/extension.h>
#include <torch/library.h>

#include <mutex>
#include <map>

namespace {
using c10::Device; using c10::DeviceType; using at::Tensor; using c10::IValue;
constexpr auto HERE = DeviceType::PrivateUse1;
const Device DEVICE(HERE, 0);

struct Guard final : c10::impl::NoOpDeviceGuardImpl<HERE> {
  Device exchangeDevice(Device) const override { return DEVICE; }
  Device getDevice() const override { return DEVICE; }
  c10::Stream getStream(Device) const noexcept override { return c10::Stream(c10::Stream::DEFAULT, DEVICE); }
  c10::Stream getNewStream(Device, int) const override { return c10::Stream(c10::Stream::DEFAULT, DEVICE); }
  c10::Stream exchangeStream(c10::Stream) const noexcept override { return c10::Stream(c10::Stream::DEFAULT, DEVICE); }
};
C10_REGISTER_GUARD_IMPL(PrivateUse1, Guard);

struct Draws final : at::CPUGeneratorImpl {
  explicit Draws() : at::CPUGeneratorImpl(c10::detail::getNonDeterministicRandom()) { device_ = DEVICE; }
};

struct Hooks final : at::PrivateUse1HooksInterface {
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  c10::DeviceIndex deviceCount() const override { return 1; }
  c10::DeviceIndex getCurrentDevice() const override { return 0; }
  c10::DeviceIndex exchangeDevice(c10::DeviceIndex) const override { return 0; }
  c10::DeviceIndex maybeExchangeDevice(c10::DeviceIndex) const override { return 0; }
  at::Generator getNewGenerator(c10::DeviceIndex) const override { return at::make_generator<Draws>(); }
  void resizePrivateUse1Bytes(const c10::Storage& storage, size_t bytes) const override {
    auto* impl = storage.unsafeGetStorageImpl();
    auto fresh = impl->allocator()->allocate(bytes);
    memcpy(fresh.get(), impl->data(), std::min(bytes, impl->nbytes()));
    impl->set_data_ptr_noswap(std::move(fresh));
    impl->set_nbytes(bytes);
  }
};

struct Memory final : c10::Allocator {
  c10::DataPtr allocate(size_t n) override {
    void* data = c10::alloc_cpu(n);
    return {data, data, &c10::free_cpu, DEVICE};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &c10::free_cpu; }
  void copy_data(void* to, const void* from, size_t n) const override { memcpy(to, from, n); }
};
Memory memory;
REGISTER_ALLOCATOR(HERE, &memory);

bool here(const Tensor& t) { return t.defined() && t.device().type() == HERE; }

Tensor made(c10::Storage storage, c10::DispatchKey key, const Tensor& like) {
  auto t = at::detail::make_tensor<c10::TensorImpl>(std::move(storage), c10::DispatchKeySet(key), like.dtype());
  t.unsafeGetTensorImpl()->set_sizes_and_strides(like.sizes(), like.strides(), like.storage_offset());
  if (like.is_conj()) t._set_conj(true);
  if (like.is_neg()) t._set_neg(true);
  return t;
}

Tensor on_cpu(const Tensor& t) {  // the same memory
  const auto& own = t.storage();
  c10::Storage storage(c10::Storage::use_byte_size_t(), own.nbytes(),
      c10::DataPtr(own.mutable_data(), Device(DeviceType::CPU)), c10::GetAllocator(DeviceType::CPU), true);
  return made(std::move(storage), c10::DispatchKey::CPU, t);
}

c10::Storage taken(const Tensor& t) {  // storage of a CPU tensor, now the device's
  auto* held = new c10::Storage(t.storage());
  return c10::Storage(c10::Storage::use_byte_size_t(), t.storage().nbytes(),
      c10::DataPtr(t.storage().mutable_data(), held, [](void* p) { delete static_cast<c10::Storage*>(p); }, DEVICE),
      &memory, true);
}
Tensor to_device(const Tensor& t) { return made(taken(t), c10::DispatchKey::PrivateUse1, t); }

void fallback(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  const auto& schema = op.schema();
  const auto& given = schema.arguments();
  const auto count = given.size();
  const auto begin = stack->size() - count;
  std::vector<std::pair<Tensor, Tensor>> written;  // of the device, its alias
  std::vector<std::pair<Tensor, Tensor>> all;
  std::string strangers;
  bool any = false;
  auto swap = [&](const Tensor& t, bool writes) -> Tensor {
    if (!t.defined()) return t;
    if (!here(t)) {
      if (t.dim() > 0 && t.numel() > 0) strangers += " " + t.toString() + "[" + std::to_string(t.numel()) + "]";
      return t;
    }
    any = true;
    auto alias = on_cpu(t);
    all.emplace_back(t, alias);
    if (writes) written.emplace_back(t, alias);
    return alias;
  };
  std::string generators;
  at::Generator own, twin;
  for (size_t i = 0; i < count; ++i) {
    auto& value = (*stack)[begin + i];
    bool writes = given[i].alias_info() && given[i].alias_info()->isWrite();
    if (value.isTensor()) value = swap(value.toTensor(), writes);
    else if (value.isTensorList()) {
      c10::List<Tensor> list;
      for (const Tensor& t : value.toTensorVector()) list.push_back(swap(t, writes));
      value = list;
    } else if (value.isOptionalTensorList()) {
      c10::List<std::optional<Tensor>> list;
      for (const auto& one : value.toOptionalTensorList()) {
        std::optional<Tensor> t = one;
        list.push_back(t ? std::optional<Tensor>(swap(*t, writes)) : t);
      }
      value = list;
    } else if (value.isDevice() && value.toDevice().type() == HERE) { any = true; value = Device(DeviceType::CPU); }
    else if (value.isGenerator()) {
      auto one = value.toGenerator();
      if (one.device().type() != HERE) { generators = "a generator of the CPU"; continue; }
      own = one;
      twin = at::detail::createCPUGenerator();
      twin.set_state(own.get_state());
      value = twin;
    }
  }
  const auto name = schema.name();
  const bool indexes = name == "aten::index" || name == "aten::index_put_" || name == "aten::_index_put_impl_";
  TORCH_CHECK(!any || strangers.empty() || indexes, "second device: ", name, " got tensors of the CPU too:", strangers);
  TORCH_CHECK(!any || generators.empty(), "second device: ", name, " got ", generators);
  {
    at::AutoDispatchBelowADInplaceOrView guard;
    op.redispatchBoxed(c10::DispatchKeySet(c10::DispatchKey::CPU), stack);
  }
  if (own.defined()) own.set_state(twin.get_state());
  for (auto& [own, alias] : written) {
    if (alias.sizes() != own.sizes() || alias.storage().nbytes() != own.storage().nbytes()) {
      auto* impl = own.storage().unsafeGetStorageImpl();
      if (alias.storage().nbytes() != own.storage().nbytes()) {
        auto bytes = alias.storage().nbytes();
        auto fresh = memory.allocate(bytes);
        memcpy(fresh.get(), alias.storage().data(), bytes);
        impl->set_data_ptr_noswap(std::move(fresh));
        impl->set_nbytes(bytes);
      }
      own.unsafeGetTensorImpl()->set_sizes_and_strides(alias.sizes(), alias.strides(), alias.storage_offset());
    }
  }
  auto back = [&](const Tensor& t) -> Tensor {
    if (!t.defined() || !any) return t;
    for (auto& [own, alias] : all) {
      if (alias.is_same(t)) return own;
      if (alias.storage().data() == t.storage().data() && t.numel())
        return made(own.storage(), c10::DispatchKey::PrivateUse1, t);
    }
    return to_device(t);
  };
  const auto returns = schema.returns().size();
  const auto first = stack->size() - returns;
  for (size_t i = 0; i < returns; ++i) {
    auto& value = (*stack)[first + i];
    if (value.isTensor()) value = back(value.toTensor());
    else if (value.isTensorList()) {
      c10::List<Tensor> list;
      for (const Tensor& t : value.toTensorVector()) list.push_back(back(t));
      value = list;
    }
  }
}

Tensor empty(at::SymIntArrayRef size, std::optional<at::ScalarType> dtype, std::optional<at::Layout>, std::optional<Device>,
             std::optional<bool>, std::optional<at::MemoryFormat> format) {
  return at::detail::empty_generic(C10_AS_INTARRAYREF_SLOW(size), &memory, c10::DispatchKeySet(c10::DispatchKey::PrivateUse1),
      c10::dtype_or_default(dtype), format);
}
Tensor empty_strided(at::SymIntArrayRef size, at::SymIntArrayRef stride, std::optional<at::ScalarType> dtype,
                     std::optional<at::Layout>, std::optional<Device>, std::optional<bool>) {
  return at::detail::empty_strided_generic(C10_AS_INTARRAYREF_SLOW(size), C10_AS_INTARRAYREF_SLOW(stride), &memory,
      c10::DispatchKeySet(c10::DispatchKey::PrivateUse1), c10::dtype_or_default(dtype));
}
Tensor as_strided(const Tensor& self, at::SymIntArrayRef size, at::SymIntArrayRef stride, std::optional<c10::SymInt> offset) {
  auto t = at::detail::make_tensor<c10::TensorImpl>(c10::TensorImpl::VIEW, c10::Storage(self.storage()), self.key_set(), self.dtype());
  t.unsafeGetTensorImpl()->set_sizes_and_strides(C10_AS_INTARRAYREF_SLOW(size), C10_AS_INTARRAYREF_SLOW(stride),
      offset ? offset->guard_int(__FILE__, __LINE__) : self.storage_offset());
  return t;
}
Tensor view(const Tensor& self, at::SymIntArrayRef size) {
  auto alias = on_cpu(self).view_symint(size);
  return as_strided(self, c10::fromIntArrayRefSlow(alias.sizes()), c10::fromIntArrayRefSlow(alias.strides()), c10::SymInt(alias.storage_offset()));
}
Tensor reshape_alias(const Tensor& self, at::SymIntArrayRef size, at::SymIntArrayRef stride) {
  return as_strided(self, size, stride, c10::SymInt(self.storage_offset()));
}
Tensor unfold(const Tensor& self, int64_t dim, int64_t size, int64_t step) {
  auto alias = on_cpu(self).unfold(dim, size, step);
  return as_strided(self, c10::fromIntArrayRefSlow(alias.sizes()), c10::fromIntArrayRefSlow(alias.strides()), c10::SymInt(alias.storage_offset()));
}
Tensor copy_from(const Tensor& self, const Tensor& to, bool) {
  (here(to) ? on_cpu(to) : to).copy_(here(self) ? on_cpu(self) : self);
  return to;
}
Tensor convolution(const Tensor& x, const Tensor& w, const std::optional<Tensor>& b, at::SymIntArrayRef stride, at::SymIntArrayRef padding,
                   at::SymIntArrayRef dilation, bool transposed, at::SymIntArrayRef out, c10::SymInt groups) {
  std::optional<Tensor> bias;
  TORCH_CHECK(here(x) && here(w), "second device: convolution got tensors of the CPU too");
  if (b && b->defined()) bias = on_cpu(*b);
  return to_device(at::convolution_symint(on_cpu(x), on_cpu(w), bias, stride, padding, dilation, transposed, out, groups));
}
std::tuple<Tensor, Tensor, Tensor> convolution_backward(const Tensor& g, const Tensor& x, const Tensor& w, at::SymIntArrayRef stride,
    at::SymIntArrayRef padding, at::SymIntArrayRef dilation, bool transposed, at::SymIntArrayRef out, c10::SymInt groups, std::array<bool, 3> mask) {
  std::vector<c10::SymInt> bias{g.sym_size(1)};
  auto [a, b, c] = at::convolution_backward_symint(on_cpu(g), on_cpu(x), on_cpu(w), bias, stride, padding, dilation, transposed, out, groups, mask);
  auto back = [](const Tensor& t) { return t.defined() ? to_device(t) : t; };
  return {back(a), back(b), back(c)};
}
Tensor& set_(Tensor& self, at::Storage source, c10::SymInt offset, at::SymIntArrayRef size, at::SymIntArrayRef stride) {
  self.unsafeGetTensorImpl()->set_storage_keep_dtype(source);
  self.unsafeGetTensorImpl()->set_sizes_and_strides(C10_AS_INTARRAYREF_SLOW(size), C10_AS_INTARRAYREF_SLOW(stride), offset.guard_int(__FILE__, __LINE__));
  return self;
}
}  // namespace

TORCH_LIBRARY_IMPL(_, PrivateUse1, m) { m.fallback(torch::CppFunction::makeFromBoxedFunction<&fallback>()); }
TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("empty.memory_format", empty);
  m.impl("empty_strided", empty_strided);
  m.impl("as_strided", as_strided);
  m.impl("view", view);
  m.impl("_reshape_alias", reshape_alias);
  m.impl("unfold", unfold);
  // torch's own for unknown devices wants other strides than the CPU's and CUDA's
  m.impl("native_group_norm", torch::CppFunction::makeFromBoxedFunction<&fallback>());
  m.impl("native_group_norm_backward", torch::CppFunction::makeFromBoxedFunction<&fallback>());
  m.impl("_copy_from", copy_from);
  m.impl("convolution_overrideable", convolution);
  m.impl("convolution_backward_overrideable", convolution_backward);
  m.impl("set_.source_Storage_storage_offset", set_);
}
TORCH_LIBRARY_IMPL(aten, Conjugate, m) { m.impl("_copy_from", torch::CppFunction::makeFallthrough()); }
TORCH_LIBRARY_IMPL(aten, Negative, m) { m.impl("_copy_from", torch::CppFunction::makeFallthrough()); }
void set_data(const Tensor& self, const Tensor& value) {  // as autograd's own, which refuses this device beside the CPU
  auto* meta = torch::autograd::impl::get_autograd_meta(self);
  if (meta) {
    std::lock_guard<std::mutex> lock(meta->mutex_);
    if (auto before = meta->grad_accumulator_.lock(); before && before->input_metadata(0).device() != value.device())
      meta->grad_accumulator_.reset();
  }
  self.unsafeGetTensorImpl()->shallow_copy_from(value.getIntrusivePtr());
}
PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  m.def("set_data", &set_data);
  static Hooks hooks;
  at::RegisterPrivateUse1HooksInterface(&hooks);
}
